// The limits of a GPU of sm_90 that every launch is checked against.
#include <string>

#include "simt/executor.h"
#include "simt/shared_memory.h"

namespace simt {
namespace {

constexpr uint64_t kThreads = 1024;     // of a block
constexpr uint64_t kRegisters = 65536;  // of a multiprocessor, a quarter for each scheduler
constexpr uint64_t kSchedulers = 4;
constexpr uint64_t kRegisterUnit = 256;  // of a warp's share
constexpr uint64_t kGridX = 2147483647;  // blocks
constexpr uint64_t kGridYZ = 65535;

std::string numbers(dim3 d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

[[noreturn]] void refuse(const std::string& asked, const std::string& limit) {
  throw Error("launch refused: " + asked + "; " + limit);
}

}  // namespace

void check_launch(dim3 grid, dim3 block, int64_t dynamic, const KernelLimits& kernel) {
  if (grid.x < 1 || grid.x > kGridX || grid.y < 1 || grid.y > kGridYZ || grid.z < 1 ||
      grid.z > kGridYZ) {
    refuse("a grid of " + numbers(grid) + " blocks",
           "a grid has 1 to " + std::to_string(kGridX) + " blocks along x and 1 to " +
               std::to_string(kGridYZ) + " along y and z");
  }
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kThreads) {
    refuse("a block of " + numbers(block) + " threads, " + std::to_string(threads) + " in all",
           "a block has 1 to " + std::to_string(kThreads) + " threads");
  }
  if (threads > kernel.threads) {
    refuse("a block of " + std::to_string(threads) + " threads",
           "the launch bounds of this kernel are " + std::to_string(kernel.threads) + " threads");
  }
  const uint64_t warps = (threads + 31) / 32;
  const uint64_t of_warp =
      (kernel.registers * 32 + kRegisterUnit - 1) / kRegisterUnit * kRegisterUnit;
  const uint64_t of_scheduler = (warps + kSchedulers - 1) / kSchedulers * of_warp;
  if (of_scheduler * kSchedulers > kRegisters) {
    refuse("a block of " + std::to_string(warps) + " warps with " +
               std::to_string(kernel.registers) + " registers a thread, which take " +
               std::to_string(of_scheduler * kSchedulers) + " registers",
           "a multiprocessor has " + std::to_string(kRegisters) + " registers");
  }
  const std::string shared = std::to_string(dynamic) + " bytes of dynamic and " +
                             std::to_string(kernel.static_shared) +
                             " bytes of static shared memory";
  if (dynamic < 0) refuse(shared, "a size cannot be negative");
  if (kernel.static_shared > kStaticBytes) {
    refuse(shared, "a kernel may declare " + std::to_string(kStaticBytes) + " bytes");
  }
  if (static_cast<uint64_t>(dynamic) + kernel.static_shared > kSharedBytes) {
    refuse(shared, "a block has at most " + std::to_string(kSharedBytes) + " bytes");
  }
}

}  // namespace simt
