// Random numbers: the CPU's, behind a generator of this device.
#pragma once

#include "common.h"

namespace {

struct FakeGenerator final : c10::GeneratorImpl {
  explicit FakeGenerator(at::Generator inner_ = at::detail::createCPUGenerator())
      : GeneratorImpl(DEVICE, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)), inner(std::move(inner_)) {}
  void set_current_seed(uint64_t seed) override {
    inner.set_current_seed(seed);
  }
  void set_offset(uint64_t offset) override {}
  uint64_t get_offset() const override {
    return 0;
  }
  uint64_t current_seed() const override {
    return inner.current_seed();
  }
  uint64_t seed() override {
    return inner.seed();
  }
  void set_state(const TensorImpl& state) override {
    inner.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<TensorImpl> get_state() const override {
    return inner.unsafeGetGeneratorImpl()->get_state();
  }
  FakeGenerator* clone_impl() const override {
    return new FakeGenerator(inner.clone());
  }
  at::Generator inner;
};

at::Generator& default_generator() {
  static at::Generator generator = at::make_generator<FakeGenerator>();
  return generator;
}

at::Generator inner_of(const at::Generator& generator) {
  return static_cast<FakeGenerator*>(generator.unsafeGetGeneratorImpl())->inner;
}

}  // namespace
