// The same memory as a tensor of the CPU, for its kernels, and of this device.
#pragma once

#include "common.h"

namespace {

bool is_fake(const at::Tensor& t) {
  return t.defined() && t.device().type() == kFake;
}

void release_storage(void* context) {
  delete static_cast<c10::Storage*>(context);
}

struct Views {
  std::unordered_map<StorageImpl*, c10::Storage> to_cpu, to_fake;
  std::unordered_map<StorageImpl*, c10::DispatchKeySet> keys;  // of the tensors whose views may come back
  std::unordered_map<TensorImpl*, at::Tensor> originals;
  std::vector<at::Tensor> alive;  // what is found by its address must not be freed meanwhile
  std::vector<std::pair<at::Tensor, at::Tensor>> written;  // (fake, what the CPU kernel writes to)
  std::vector<std::vector<int64_t>> sizes_before, strides_before;

  at::Tensor cpu(const at::Tensor& t, bool write) {
    const auto& storage = t.storage();
    auto* key = storage.unsafeGetStorageImpl();
    auto found = to_cpu.find(key);
    if (found == to_cpu.end()) {
      c10::DataPtr data(key->mutable_data(), new c10::Storage(storage), &release_storage, c10::Device(c10::kCPU));
      c10::Storage seen(c10::Storage::use_byte_size_t(), key->nbytes(), std::move(data), c10::GetCPUAllocator(), true);
      found = to_cpu.emplace(key, seen).first;
      to_fake.emplace(seen.unsafeGetStorageImpl(), storage);
      keys.emplace(seen.unsafeGetStorageImpl(), t.unsafeGetTensorImpl()->key_set());
    }
    at::Tensor made =
        at::detail::make_tensor<TensorImpl>(c10::Storage(found->second), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
    made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
    made._set_conj(t.is_conj());
    made._set_neg(t.is_neg());
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) {
      made.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    originals.emplace(made.unsafeGetTensorImpl(), t);
    alive.push_back(made);
    if (write) {
      written.emplace_back(t, made);
      sizes_before.push_back(t.sizes().vec());
      strides_before.push_back(t.strides().vec());
    }
    return made;
  }

  // A view is an inference tensor only where what it is a view of is one: it has that one's keys.
  static at::Tensor with_storage(const at::Tensor& like, c10::Storage storage, std::optional<c10::DispatchKeySet> base = std::nullopt) {
    at::Tensor made = base.has_value()
        ? at::detail::make_tensor<TensorImpl>(TensorImpl::VIEW, std::move(storage), *base, like.dtype())
        : at::detail::make_tensor<TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), like.dtype());
    made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
    made._set_conj(like.is_conj());
    made._set_neg(like.is_neg());
    if (like.unsafeGetTensorImpl()->is_wrapped_number()) {
      made.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return made;
  }

  at::Tensor fake(const at::Tensor& t) {
    if (!t.defined() || is_fake(t)) {
      return t;
    }
    const auto original = originals.find(t.unsafeGetTensorImpl());
    if (original != originals.end()) {
      return original->second;
    }
    TORCH_CHECK_NOT_IMPLEMENTED(t.layout() == c10::kStrided, "fake device: result of layout ", t.layout());
    auto* key = t.storage().unsafeGetStorageImpl();
    const auto seen = to_fake.find(key);
    if (seen != to_fake.end()) {
      const auto base = keys.find(key);
      return base == keys.end() ? with_storage(t, seen->second) : with_storage(t, seen->second, base->second);
    }
    const auto bytes = static_cast<int64_t>(key->nbytes());
    count(bytes);
    c10::DataPtr data(key->mutable_data(), new Block{bytes, nullptr, t.storage()}, &free_block, DEVICE);
    c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &allocator, true);
    to_fake.emplace(key, storage);
    return with_storage(t, storage);
  }

  // Brings what a kernel did to an argument's shape or memory back to it.
  void write_back() {
    for (size_t i = 0; i < written.size(); ++i) {
      auto& [original, seen] = written[i];
      auto* storage = original.storage().unsafeGetStorageImpl();
      auto* other = seen.storage().unsafeGetStorageImpl();
      const bool moved = other->data() != storage->data();
      if (moved && other->data() != nullptr) {
        // The kernel resized it: the CPU's new block is the fake storage's now.
        const auto bytes = static_cast<int64_t>(other->nbytes());
        count(bytes);
        c10::DataPtr data(other->mutable_data(), new Block{bytes, nullptr, seen.storage()}, &free_block, DEVICE);
        storage->set_data_ptr_noswap(std::move(data));
        storage->set_nbytes(bytes);
      }
      if (seen.sizes().vec() != sizes_before[i] || seen.strides().vec() != strides_before[i]) {
        original.unsafeGetTensorImpl()->set_sizes_and_strides(seen.sizes(), seen.strides(), seen.storage_offset());
      }
    }
  }
};

}  // namespace
