// Operators that this device implements itself.
#pragma once

#include "common.h"

namespace {

at::Tensor empty(
    c10::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device>,
    std::optional<bool>,
    std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK_NOT_IMPLEMENTED(c10::layout_or_default(layout) == c10::kStrided, "fake device: strided tensors only");
  return at::detail::empty_generic(
      size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size,
    c10::IntArrayRef stride,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device>,
    std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  Views views;
  at::AutoDispatchBelowADInplaceOrView below;
  const bool from_fake = is_fake(self), to_fake = is_fake(to);
  if (from_fake != to_fake) {
    const int64_t bytes = static_cast<int64_t>(self.numel() * self.element_size());
    if (from_fake) {
      tell(non_blocking ? "D2H unsafe" : "D2H", "copy", bytes);
    } else {
      tell(non_blocking ? "H2D async" : "H2D", "copy", bytes);
    }
  } else {
    tell("D2D", "copy", static_cast<int64_t>(self.numel() * self.element_size()));
  }
  at::Tensor target = to_fake ? views.cpu(to, false) : to;
  target.copy_(from_fake ? views.cpu(self, false) : self);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

const at::Tensor& resize(const at::Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  return at::native::resize_(self, size, format);
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source) {
  return at::native::set_(self, std::move(source));
}

at::Tensor& set_storage_at(at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::cpu::set_(self, std::move(source), offset, size, stride);
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return at::native::set_tensor_(self, source);
}

at::Tensor& set_nothing(at::Tensor& self) {
  c10::Storage storage(c10::Storage::use_byte_size_t(), 0, allocator.allocate(0), &allocator, true);
  return at::native::set_(self, std::move(storage));
}

bool compatible(const at::Tensor& self, const at::Tensor& from) {
  return self.layout() == c10::kStrided && from.layout() == c10::kStrided;
}

int64_t attention_choice(
    const at::Tensor&,
    const at::Tensor&,
    const at::Tensor&,
    const std::optional<at::Tensor>&,
    double,
    bool,
    std::optional<double>,
    bool) {
  return 0;  // SDPBackend::math: made of matmul and softmax, so that every step of it is checked
}

void record_stream(at::Tensor&, at::Stream) {}

void same_device(const char* name, const at::Tensor& first, const at::Tensor& other) {
  TORCH_CHECK(
      !other.defined() || first.device() == other.device(),
      "Expected all tensors to be on the same device, but found at least two devices, ", first.device(), " and ", other.device(), "! (", name, ")");
}

// Halves widened: a GPU sums their products in float.
at::Tensor float_of(const at::Tensor& t) {
  return t.scalar_type() == at::kHalf ? t.to(at::kFloat) : t;
}

at::Tensor convolution(
    const at::Tensor& input,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& bias,
    c10::IntArrayRef stride,
    c10::IntArrayRef padding,
    c10::IntArrayRef dilation,
    bool transposed,
    c10::IntArrayRef output_padding,
    int64_t groups) {
  same_device("convolution", input, weight);
  const at::Tensor b = bias.value_or(at::Tensor());
  same_device("convolution", input, b);
  Views views;
  at::AutoDispatchBelowADInplaceOrView below;
  tell("op", "aten::convolution", 0);
  const auto wide = [&](const at::Tensor& t) { return t.defined() ? float_of(views.cpu(t, false)) : t; };
  const at::Tensor sum = at::convolution(wide(input), wide(weight), wide(b), stride, padding, dilation, transposed, output_padding, groups);
  return views.fake(sum.to(input.scalar_type()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad,
    const at::Tensor& input,
    const at::Tensor& weight,
    c10::IntArrayRef stride,
    c10::IntArrayRef padding,
    c10::IntArrayRef dilation,
    bool transposed,
    c10::IntArrayRef output_padding,
    int64_t groups,
    std::array<bool, 3> mask) {
  same_device("convolution_backward", grad, weight);
  same_device("convolution_backward", grad, input);
  Views views;
  at::AutoDispatchBelowADInplaceOrView below;
  const int64_t channels = transposed ? weight.size(1) * groups : weight.size(0);
  const std::vector<int64_t> bias_sizes{channels};
  const auto wide = [&](const at::Tensor& t) { return float_of(views.cpu(t, false)); };
  auto [a, b, c] = at::convolution_backward(
      wide(grad), wide(input), wide(weight), bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask);
  // All three stay alive until the last is looked up: results are told apart by the address of their storage.
  for (at::Tensor* t : {&a, &b, &c}) {
    *t = t->defined() ? t->to(grad.scalar_type()) : *t;
  }
  return {views.fake(a), views.fake(b), views.fake(c)};
}

}  // namespace
