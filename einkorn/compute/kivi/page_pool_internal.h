// Equal pieces of memory on one device, handed out, shared by count, and taken back.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace einkorn::kivi {

class PagePool {
 public:
  PagePool(std::int64_t page_bytes, at::Device device) : page_bytes_(page_bytes), device_(device) {}

  // A page with one owner and any content. Pages never move.
  std::int32_t allocate();
  void retain(std::int32_t page) { ++owners_[index(page)]; }
  void release(std::int32_t page);

  // The page, if the caller is its only owner; else a copy of it, with the caller's share of the
  // old one given back.
  std::int32_t own(std::int32_t page);

  // Makes sure that `pages` more can be had without a new allocation.
  void reserve(std::int64_t pages);

  at::Tensor bytes(std::int32_t page) const;  // u8, a view
  std::uint64_t address(std::int32_t page) const;

  std::int64_t page_bytes() const { return page_bytes_; }
  std::int64_t reserved_bytes() const {
    return static_cast<std::int64_t>(owners_.size()) * page_bytes_;
  }

 private:
  static std::size_t index(std::int32_t page) { return static_cast<std::size_t>(page); }
  void grow(std::int64_t pages);

  struct Place {
    std::int32_t slab = 0;
    std::int32_t index = 0;
  };
  std::int64_t page_bytes_;
  at::Device device_;
  std::vector<at::Tensor> slabs_;  // u8 [pages, page_bytes]
  std::vector<Place> places_;
  std::vector<std::int32_t> owners_;
  std::vector<std::int32_t> free_;
};

}  // namespace einkorn::kivi
