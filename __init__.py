"""ComfyUI Forget-Me-Not: makes a Stable Diffusion model forget a concept. Entry point: the list of nodes."""

try:
    from comfy_api.v0_0_2 import ComfyExtension
except ImportError:
    from comfy_api.latest import ComfyExtension

from .nodes import web_routes
from .nodes.apply_patch import ApplyForgetPatch
from .nodes.attention_map import ConceptAttentionMap
from .nodes.attention_mask import AttentionMask
from .nodes.closed_form_options import ClosedFormOptions
from .nodes.concept import ConceptNode, ConceptPreset
from .nodes.concept_correction import ConceptCorrection
from .nodes.encode_prompt import EncodePrompt
from .nodes.face_mask import FaceMask
from .nodes.forget_cache import ClearForgetCache
from .nodes.forget_report import ForgetReport
from .nodes.gated_patch import GatedForgetPatch, ScheduleForgetPatch
from .nodes.install_embedding import InstallPatchEmbedding
from .nodes.invert_concept import InvertConcept
from .nodes.merge_patches import MergeForgetPatches
from .nodes.miniature import LoadMiniature
from .nodes.patch_info import ForgetPatchInfo, SaveForgetPatch
from .nodes.score_accuracies import ForgetAccuracies
from .nodes.score_attack import AttackForgetPatch
from .nodes.score_clip import ClipScore
from .nodes.score_distance import PictureDistance
from .nodes.score_m import MScoreNode
from .nodes.score_model import LoadImageTextModel
from .nodes.shrink_patch import ShrinkForgetPatch
from .nodes.train_patch import TrainForgetPatch
from .nodes.training_options import TrainingOptions
from .nodes.visual_pairs import VisualDenoisingPairs
from .nodes.zero_attention import ZeroConceptAttention

WEB_DIRECTORY = "./js"
NODES = [
    LoadMiniature,
    EncodePrompt,
    ZeroConceptAttention,
    TrainForgetPatch,
    ClosedFormOptions,
    TrainingOptions,
    VisualDenoisingPairs,
    ApplyForgetPatch,
    GatedForgetPatch,
    ScheduleForgetPatch,
    MergeForgetPatches,
    ShrinkForgetPatch,
    ForgetPatchInfo,
    SaveForgetPatch,
    InstallPatchEmbedding,
    InvertConcept,
    ConceptCorrection,
    ConceptNode,
    ConceptPreset,
    ConceptAttentionMap,
    AttentionMask,
    FaceMask,
    LoadImageTextModel,
    ClipScore,
    ForgetAccuracies,
    MScoreNode,
    PictureDistance,
    AttackForgetPatch,
    ForgetReport,
    ClearForgetCache,
]


class ForgetMeNot(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint():
    web_routes.register()
    return ForgetMeNot()
