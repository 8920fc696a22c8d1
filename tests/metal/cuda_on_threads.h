// CUDA's built-in names for g++: one host thread per GPU thread, one group at a time. For testing msl_cuda.h without a GPU.
#pragma once
#include <barrier>
#include <climits>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
#undef INFINITY
#undef NAN
#undef HUGE_VALF
#undef CHAR_MIN
#undef CHAR_MAX
#undef LONG_MAX
#undef LONG_MIN
#undef ULONG_MAX
#undef INT_MIN
#undef isnan
#undef isinf
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __CUDA_ARCH__ 900

struct emulated_dim { unsigned x, y, z; };
inline thread_local emulated_dim threadIdx;
inline emulated_dim blockIdx, blockDim;
struct emulated_warp {
  std::barrier<> gate{32};
  unsigned word[32];
};
inline std::unique_ptr<std::barrier<>> emulated_group;
inline std::vector<std::unique_ptr<emulated_warp>> emulated_warps;
inline std::mutex emulated_lock;
inline unsigned emulated_index() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
inline unsigned emulated_lane() { return emulated_index() & 31u; }

template <class F> unsigned emulated_exchange(unsigned word, F pick) {  // pick sees what all 32 lanes brought
  emulated_warp& warp = *emulated_warps[emulated_index() >> 5];
  warp.word[emulated_lane()] = word;
  warp.gate.arrive_and_wait();
  const unsigned result = pick(warp.word);
  warp.gate.arrive_and_wait();
  return result;
}
inline void __syncthreads() { emulated_group->arrive_and_wait(); }
inline void __syncwarp() { emulated_exchange(0, [](unsigned*) { return 0u; }); }
inline void __threadfence() {}
struct alignas(16) float4 { float x, y, z, w; };
inline float4 __ldcs(const float4* p) { return *p; }
inline unsigned __activemask() { return ~0u; }
inline unsigned __shfl_sync(unsigned, unsigned word, int lane, int width = 32) {
  const unsigned me = emulated_lane();
  return emulated_exchange(word, [=](unsigned* all) { return all[(me & ~(width - 1u)) | (unsigned(lane) & (width - 1u))]; });
}
inline unsigned __shfl_xor_sync(unsigned, unsigned word, int mask, int width = 32) {
  const unsigned me = emulated_lane(), from = me ^ unsigned(mask);
  return emulated_exchange(word, [=](unsigned* all) { return (from & ~(width - 1u)) <= (me & ~(width - 1u)) ? all[from] : word; });
}
inline unsigned __shfl_up_sync(unsigned, unsigned word, unsigned delta, int width = 32) {
  const unsigned me = emulated_lane();
  return emulated_exchange(word, [=](unsigned* all) { return (me & (width - 1u)) >= delta ? all[me - delta] : word; });
}
inline unsigned __shfl_down_sync(unsigned, unsigned word, unsigned delta, int width = 32) {
  const unsigned me = emulated_lane();
  return emulated_exchange(word, [=](unsigned* all) { return (me & (width - 1u)) + delta < unsigned(width) ? all[me + delta] : word; });
}
template <class T, class F> T emulated_fold(T value, F op) {
  return T(emulated_exchange(unsigned(value), [=](unsigned* all) {
    T result = T(all[0]);
    for (int i = 1; i < 32; i++) result = op(result, T(all[i]));
    return unsigned(result);
  }));
}
#define EMULATED_FOLD(name, T, expression) \
  inline T name(unsigned, T value) { return emulated_fold(value, [](T a, T b) { return T(expression); }); }
EMULATED_FOLD(__reduce_add_sync, int, a + b) EMULATED_FOLD(__reduce_add_sync, unsigned, a + b)
EMULATED_FOLD(__reduce_max_sync, int, a > b ? a : b) EMULATED_FOLD(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATED_FOLD(__reduce_min_sync, int, a < b ? a : b) EMULATED_FOLD(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATED_FOLD(__reduce_and_sync, unsigned, a & b) EMULATED_FOLD(__reduce_or_sync, unsigned, a | b)
EMULATED_FOLD(__reduce_xor_sync, unsigned, a ^ b)
inline unsigned __ballot_sync(unsigned, int yes) {
  return emulated_exchange(yes != 0, [](unsigned* all) { unsigned m = 0; for (int i = 0; i < 32; i++) m |= all[i] << i; return m; });
}
inline int __all_sync(unsigned, int yes) { return __ballot_sync(~0u, yes) == ~0u; }
inline int __any_sync(unsigned, int yes) { return __ballot_sync(~0u, yes) != 0; }

#define EMULATED_ATOMIC(name, expression)                     \
  template <class T> T name(T* cell, T value) {               \
    const std::lock_guard<std::mutex> hold(emulated_lock);    \
    const T old = *cell;                                      \
    *cell = T(expression);                                    \
    return old;                                               \
  }
EMULATED_ATOMIC(atomicAdd, old + value) EMULATED_ATOMIC(atomicSub, old - value) EMULATED_ATOMIC(atomicExch, value)
EMULATED_ATOMIC(atomicMax, old > value ? old : value) EMULATED_ATOMIC(atomicMin, old < value ? old : value)
EMULATED_ATOMIC(atomicAnd, old & value) EMULATED_ATOMIC(atomicOr, old | value) EMULATED_ATOMIC(atomicXor, old ^ value)
template <class T> T atomicCAS(T* cell, T expected, T desired) {
  const std::lock_guard<std::mutex> hold(emulated_lock);
  const T old = *cell;
  if (old == expected) *cell = desired;
  return old;
}

constexpr int __popc(unsigned x) { return __builtin_popcount(x); }
constexpr int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
constexpr int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
constexpr int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
constexpr int __ffs(int x) { return __builtin_ffs(x); }
constexpr int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) { unsigned r = 0; for (int i = 0; i < 32; i++) r = r << 1 | (x >> i & 1u); return r; }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float sinpif(float x) { return float(std::sin(3.14159265358979323846 * x)); }
inline float cospif(float x) { return float(std::cos(3.14159265358979323846 * x)); }

// What the inline assembly of the headers means.
inline float emulated_instruction(const char* name, float x) {
  if (!std::strncmp(name, "sqrt", 4)) return std::sqrt(x);
  if (!std::strncmp(name, "rsqrt", 5)) return 1.0f / std::sqrt(x);
  if (!std::strncmp(name, "rcp", 3)) return 1.0f / x;
  if (!std::strncmp(name, "ex2", 3)) return std::exp2(x);
  if (!std::strncmp(name, "lg2", 3)) return std::log2(x);
  if (!std::strncmp(name, "sin", 3)) return std::sin(x);
  return std::cos(x);
}

using emulated_kernel = void (*)(unsigned long, unsigned long, unsigned long, unsigned long, unsigned long, unsigned long,
                                 unsigned long, unsigned long, unsigned long, unsigned long, unsigned long, unsigned long,
                                 unsigned long, unsigned long, unsigned long, unsigned long, unsigned long, unsigned long,
                                 unsigned long, unsigned long, unsigned long, unsigned long, unsigned long, unsigned long);
extern "C" void emulated_launch(emulated_kernel kernel, const unsigned* grid, const unsigned* block, const unsigned long* a) {
  blockDim = {block[0], block[1], block[2]};
  const unsigned threads = block[0] * block[1] * block[2];
  emulated_group = std::make_unique<std::barrier<>>(threads);
  emulated_warps.clear();
  for (unsigned i = 0; i < (threads + 31) / 32; i++) emulated_warps.push_back(std::make_unique<emulated_warp>());
  std::vector<std::thread> running;
  for (unsigned i = 0; i < threads; i++) {
    running.emplace_back([=] {
      threadIdx = {i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
      for (unsigned z = 0; z < grid[2]; z++) for (unsigned y = 0; y < grid[1]; y++) for (unsigned x = 0; x < grid[0]; x++) {
        if (i == 0) blockIdx = {x, y, z};
        emulated_group->arrive_and_wait();
        kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16],
               a[17], a[18], a[19], a[20], a[21], a[22], a[23]);
        emulated_group->arrive_and_wait();
      }
    });
  }
  for (std::thread& one : running) one.join();
}
