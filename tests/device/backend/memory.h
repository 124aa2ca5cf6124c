// Allocation: counted, limited, and filled with NaN, as what a GPU gives is whatever was there.
#pragma once

#include "common.h"

namespace {

std::atomic<int64_t> used{0}, peak{0}, capacity{int64_t(8) << 30};

void count(int64_t bytes) {
  const int64_t now = used.fetch_add(bytes) + bytes;
  if (bytes > 0) {
    if (now > capacity.load()) {
      used.fetch_sub(bytes);
      TORCH_CHECK_WITH(
          OutOfMemoryError, false, "FAKE out of memory. Tried to allocate ", bytes, " bytes; in use ", now - bytes, " of ", capacity.load());
    }
    int64_t before = peak.load();
    while (now > before && !peak.compare_exchange_weak(before, now)) {
    }
  }
}

// Keeps the CPU storage that a kernel made alive, or a plain block.
struct Block {
  int64_t bytes;
  void* memory = nullptr;
  c10::Storage kept;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  used.fetch_sub(block->bytes);
  if (block->memory != nullptr) {
    c10::free_cpu(block->memory);
  }
  delete block;
}

struct FakeAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &free_nothing, DEVICE};
    }
    count(static_cast<int64_t>(bytes));
    void* memory = c10::alloc_cpu(bytes);
    // What a GPU's allocator gives is whatever was there; NaN shows what reads it.
    std::memset(memory, 0xff, bytes);
    return {memory, new Block{static_cast<int64_t>(bytes), memory, {}}, &free_block, DEVICE};
  }
  static void free_nothing(void*) {}
  c10::DeleterFnPtr raw_deleter() const override {
    return nullptr;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

FakeAllocator allocator;

}  // namespace
