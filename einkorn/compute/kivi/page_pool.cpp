#include <ATen/ATen.h>

#include <algorithm>

#include "einkorn/compute/kivi/page_pool_internal.h"

namespace einkorn::kivi {

std::int32_t PagePool::allocate() {
  if (free_.empty()) {
    grow(std::max<std::int64_t>(8, static_cast<std::int64_t>(owners_.size()) / 4));
  }
  const std::int32_t page = free_.back();
  free_.pop_back();
  owners_[index(page)] = 1;
  return page;
}

void PagePool::release(std::int32_t page) {
  if (--owners_[index(page)] == 0) free_.push_back(page);
}

std::int32_t PagePool::own(std::int32_t page) {
  if (owners_[index(page)] == 1) return page;
  const std::int32_t copy = allocate();
  bytes(copy).copy_(bytes(page), true);
  release(page);
  return copy;
}

void PagePool::reserve(std::int64_t pages) {
  const auto ready = static_cast<std::int64_t>(free_.size());
  if (ready < pages) grow(pages - ready);
}

void PagePool::grow(std::int64_t pages) {
  const auto slab = static_cast<std::int32_t>(slabs_.size());
  slabs_.push_back(at::empty({pages, page_bytes_}, at::dtype(at::kByte).device(device_)));
  // The last one is handed out first: in the order of the slab.
  for (std::int64_t i = pages - 1; i >= 0; --i) {
    free_.push_back(static_cast<std::int32_t>(owners_.size() + static_cast<std::size_t>(i)));
  }
  for (std::int64_t i = 0; i < pages; ++i) {
    places_.push_back({slab, static_cast<std::int32_t>(i)});
  }
  owners_.resize(owners_.size() + static_cast<std::size_t>(pages), 0);
}

at::Tensor PagePool::bytes(std::int32_t page) const {
  const Place& place = places_[index(page)];
  return slabs_[index(place.slab)].select(0, place.index);
}

std::uint64_t PagePool::address(std::int32_t page) const {
  const Place& place = places_[index(page)];
  const auto* base = static_cast<const std::uint8_t*>(slabs_[index(place.slab)].const_data_ptr());
  return reinterpret_cast<std::uint64_t>(base + place.index * page_bytes_);
}

}  // namespace einkorn::kivi
