// Runs the kernel of the CPU for every operator, after the checks of CUDA.
#pragma once

#include "common.h"

namespace {

const std::unordered_map<std::string, bool> takes_cpu_indices = {
    {"aten::index.Tensor_out", true}, {"aten::index.Tensor", true}, {"aten::_index_put_impl_", true},
    {"aten::index_put_", true}, {"aten::_unsafe_index.Tensor", true}, {"aten::_index_put_impl.out", true}};

const std::unordered_map<std::string, bool> waits = {
    {"aten::_local_scalar_dense", true}, {"aten::nonzero", true}, {"aten::masked_select", true}, {"aten::equal", true},
    {"aten::_unique2", true}, {"aten::unique_consecutive", true}, {"aten::unique_dim", true}, {"aten::is_set_to", false},
    {"aten::nonzero.out", true}, {"aten::masked_select.out", true}, {"aten::bincount", true}, {"aten::multinomial", true},
    {"aten::linalg_eigh", true}, {"aten::_linalg_eigh.eigenvalues", true}, {"aten::_linalg_svd.U", true},
    {"aten::linalg_lstsq.out", true}, {"aten::repeat_interleave.Tensor", true}};

// A GPU multiplies halves with a sum in float and rounds the sum; the CPU has no fast kernel for halves.
const std::unordered_set<std::string> sums_in_float = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"};

void check_devices(const std::string& name, const c10::FunctionSchema& schema, at::ArrayRef<IValue> arguments, int flags) {
  // (tensor, argument, from a list of indices)
  struct Seen {
    at::Tensor tensor;
    std::string argument;
  };
  std::vector<Seen> seen;
  const bool indices_free = takes_cpu_indices.count(name) > 0;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& value = arguments[i];
    const auto& argument = schema.arguments()[i].name();
    if (value.isTensor()) {
      if (value.toTensor().defined()) {
        seen.push_back({value.toTensor(), argument});
      }
    } else if (value.isTensorList()) {
      for (const at::Tensor& t : value.toTensorList()) {
        if (t.defined()) {
          seen.push_back({t, argument});
        }
      }
    } else if (value.isOptionalTensorList()) {
      if (indices_free) {
        continue;
      }
      for (const std::optional<at::Tensor>& t : value.toOptionalTensorList()) {
        if (t.has_value() && t->defined()) {
          seen.push_back({*t, argument});
        }
      }
    }
  }
  if (seen.empty()) {
    return;
  }
  if (flags & CHECKED) {
    for (const auto& s : seen) {
      TORCH_CHECK(
          s.tensor.device() == seen[0].tensor.device(),
          "Expected all tensors to be on the same device, but got ", s.argument, " is on ", s.tensor.device(),
          ", different from other tensors on ", seen[0].tensor.device(), " (when checking argument in method wrapper_FAKE_", name, ")");
    }
    return;
  }
  // TensorIterator: a CPU scalar may stand beside tensors of the device.
  for (const auto& s : seen) {
    if (s.tensor.device().type() == kFake) {
      continue;
    }
    TORCH_CHECK(
        s.tensor.is_cpu() && s.tensor.dim() == 0,
        "Expected all tensors to be on the same device, but found at least two devices, fake:0 and ", s.tensor.device(), "! (", name, ", ",
        s.argument, ")");
  }
}

// Widens the tensors from `begin` on, where all of them are halves; whether it did.
bool widened(torch::jit::Stack* stack, size_t begin) {
  for (size_t i = begin; i < stack->size(); ++i) {
    const IValue& value = (*stack)[i];
    if (value.isTensor() && value.toTensor().scalar_type() != at::kHalf) {
      return false;
    }
  }
  for (size_t i = begin; i < stack->size(); ++i) {
    if ((*stack)[i].isTensor()) {
      (*stack)[i] = (*stack)[i].toTensor().to(at::kFloat);
    }
  }
  return true;
}

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& operator_name = schema.operator_name();
  const std::string name = operator_name.overload_name.empty() ? operator_name.name : operator_name.name + "." + operator_name.overload_name;
  const size_t count_in = schema.arguments().size();
  const auto arguments = torch::jit::last(*stack, count_in);

  const auto entry = known_ops().find(name);
  const int flags = entry == known_ops().end() ? (HAS_CUDA | CHECKED) : entry->second;
  TORCH_CHECK_NOT_IMPLEMENTED(
      flags & HAS_CUDA, "Could not run '", name, "' with arguments from the 'FAKE' backend: CUDA has no kernel for it.");
  check_devices(name, schema, arguments, flags);

  Views views;
  bool double_on_device = false;
  int64_t elements = 0;
  const size_t begin = stack->size() - count_in;
  for (size_t i = 0; i < count_in; ++i) {
    IValue& value = (*stack)[begin + i];
    const auto& argument = schema.arguments()[i];
    const bool write = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    const auto convert = [&](const at::Tensor& t) {
      if (!is_fake(t)) {
        return t;
      }
      if (t.scalar_type() == at::kDouble) {
        double_on_device = true;
        elements += t.numel();
      }
      return views.cpu(t, write);
    };
    if (value.isTensor()) {
      value = convert(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& t : value.toTensorList()) {
        list.push_back(convert(t));
      }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& t : value.toOptionalTensorList()) {
        list.push_back(t.has_value() ? std::optional<at::Tensor>(convert(*t)) : t);
      }
      value = list;
    } else if (value.isDevice()) {
      if (value.toDevice().type() == kFake) {
        value = c10::Device(c10::kCPU);
      }
    } else if (value.isGenerator()) {
      const auto generator = value.toGenerator();
      TORCH_CHECK(
          !generator.defined() || generator.device().type() == kFake,
          "Expected a 'fake' device type for generator but found '", generator.device().type(), "'");
      if (generator.defined()) {
        value = inner_of(generator);
      }
    } else if (value.isNone() && argument.type()->kind() == c10::TypeKind::OptionalType &&
               argument.type()->expectRef<c10::OptionalType>().getElementType()->kind() == c10::TypeKind::GeneratorType) {
      value = inner_of(default_generator());
    }
  }
  if (listening.load()) {
    tell("op", name, 0);
    if (waits.count(name) > 0) {
      tell("sync", name, 0);
    }
    if (double_on_device && elements > 1) {
      tell("float64", name, elements);
    }
  }

  // CUDA's softmax widens half by itself, the CPU's does not.
  if ((name == "aten::_softmax.out" || name == "aten::_log_softmax.out") && (*stack)[begin + 2].toBool()) {
    (*stack)[begin] = (*stack)[begin].toTensor().to(at::kFloat);
    (*stack)[begin + 2] = false;
  }
  const bool halves = sums_in_float.count(name) > 0 && widened(stack, begin);
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    if (halves) {
      stack->back() = stack->back().toTensor().to(at::kHalf);
    }
  }

  views.write_back();
  const size_t count_out = schema.returns().size();
  const size_t first = stack->size() - count_out;
  for (size_t i = 0; i < count_out; ++i) {
    IValue& value = (*stack)[first + i];
    if (value.isTensor()) {
      value = views.fake(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& t : value.toTensorList()) {
        list.push_back(views.fake(t));
      }
      value = list;
    }
  }
}

}  // namespace
