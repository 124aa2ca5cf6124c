"""Entry point of ComfyUI Forget-Me-Not, which makes a text-to-image model forget a concept: the list of its nodes."""

try:
    from comfy_api.v0_0_2 import ComfyExtension
except ImportError:
    from comfy_api.latest import ComfyExtension

from .nodes.attention.attention_map import ConceptAttentionMap
from .nodes.attention.attention_mask import AttentionMask
from .nodes.attention.face_mask import FaceMask
from .nodes.attention.zero_attention import ZeroConceptAttention
from .nodes.concepts.concept import ConceptNode
from .nodes.concepts.concept_preset import ConceptPreset
from .nodes.concepts.encode_prompt import EncodePrompt
from .nodes.forget.closed_form_options import ClosedFormOptions
from .nodes.forget.concept_correction import ConceptCorrection
from .nodes.forget.forget_concept import ForgetConcept
from .nodes.forget.train_patch import TrainForgetPatch
from .nodes.loaders.load_image_text import LoadImageTextModel
from .nodes.loaders.load_miniature import LoadMiniature
from .nodes.loaders.load_miniature_flux import LoadMiniatureFlux
from .nodes.patches.apply_patch import ApplyForgetPatch
from .nodes.patches.gated_patch import GatedForgetPatch
from .nodes.patches.install_embedding import InstallPatchEmbedding
from .nodes.patches.merge_patches import MergeForgetPatches
from .nodes.patches.patch_info import ForgetPatchInfo
from .nodes.patches.save_patch import SaveForgetPatch
from .nodes.patches.schedule_patch import ScheduleForgetPatch
from .nodes.patches.shrink_patch import ShrinkForgetPatch
from .nodes.scores.attack_patch import AttackForgetPatch
from .nodes.scores.clip_score import ClipScore
from .nodes.scores.compare import Compare
from .nodes.scores.forget_accuracies import ForgetAccuracies
from .nodes.scores.forget_report import ForgetReport
from .nodes.scores.m_score import MScoreNode
from .nodes.scores.picture_distance import PictureDistance
from .nodes.training.forget_cache import ClearForgetCache
from .nodes.training.invert_concept import InvertConcept
from .nodes.training.training_options import TrainingOptions
from .nodes.training.visual_pairs import VisualDenoisingPairs
from .nodes.web import routes as web_routes

WEB_DIRECTORY = "./js"
NODES = [
    ForgetConcept,
    LoadMiniature,
    LoadMiniatureFlux,
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
    Compare,
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
    """The extension that the host loads."""

    async def get_node_list(self):
        """Returns the node classes of the pack."""
        return NODES


async def comfy_entrypoint():
    """Adds the pack's routes to the server and returns the extension; the host calls it by this name."""
    web_routes.register()
    return ForgetMeNot()
