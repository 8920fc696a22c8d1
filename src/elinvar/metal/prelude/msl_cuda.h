// msl_cuda.h - Metal on NVRTC: what depends on how threads run. The rest of the language is in msl_types.h.
//
// A simdgroup is a warp of 32 lanes. Every simd operation and simdgroup_barrier names all 32 lanes: all of a simdgroup's
// threads must reach it, or all must have returned. Metal lets a part of a simdgroup do so; kernels here may not, and the
// emulator reports one that does.
//
// Memory orders are relaxed, as Metal's are; threadgroup_barrier orders device and threadgroup memory within a group
// whatever its flags say.
#pragma once

#define ELINVAR_CUDA 1
#define ELINVAR_FN __device__ __forceinline__
#define ELINVAR_KERNEL static __device__ __forceinline__
#define ELINVAR_CONSTANT static constexpr  // Metal asks for constant initialisers; NVRTC has no dynamic ones
// Raw bytes, because __shared__ variables may have no constructor; the address space is still known to the compiler.
#define ELINVAR_THREADGROUP(name, dims, ...)                                                                           \
  typedef __VA_ARGS__ name##_elinvar_type dims;                                                                        \
  __shared__ __align__(16) unsigned char name##_elinvar_bytes[sizeof(name##_elinvar_type)];                            \
  name##_elinvar_type& name = *reinterpret_cast<name##_elinvar_type*>(name##_elinvar_bytes)

#include "msl_types.h"

namespace elinvar_msl {
namespace metal {

// ---- barriers -----------------------------------------------------------------------------------------------------
ELINVAR_FN void threadgroup_barrier(mem_flags) { __syncthreads(); }
ELINVAR_FN void simdgroup_barrier(mem_flags) { __syncwarp(); }

// ---- atomics ------------------------------------------------------------------------------------------------------
}  // namespace metal

template <class T> struct elinvar_undeduced { typedef T type; };  // keeps an argument out of template deduction
template <class T> using elinvar_value_of = typename elinvar_undeduced<T>::type;
template <class T> struct elinvar_atomic_cell { typedef T type; };
template <> struct elinvar_atomic_cell<bool> { typedef uint type; };  // an atomic_bool is a 32-bit word
template <class T> using elinvar_cell_of = typename elinvar_atomic_cell<T>::type;
template <class T> ELINVAR_FN elinvar_cell_of<T>* elinvar_cell(const volatile metal::atomic<T>* cell) {
  static_assert(sizeof(cell->value) == 4, "Metal has 32-bit atomics");
  return const_cast<elinvar_cell_of<T>*>(&cell->value);
}
ELINVAR_FN int elinvar_swap(int* cell, int expected, int desired) { return atomicCAS(cell, expected, desired); }
ELINVAR_FN uint elinvar_swap(uint* cell, uint expected, uint desired) { return atomicCAS(cell, expected, desired); }
ELINVAR_FN float elinvar_swap(float* cell, float expected, float desired) {
  return __int_as_float(atomicCAS(reinterpret_cast<int*>(cell), __float_as_int(expected), __float_as_int(desired)));
}

namespace metal {
#define ELINVAR_ATOMIC(name, call)                                                                                     \
  template <class T>                                                                                                   \
  ELINVAR_FN T atomic_fetch_##name##_explicit(volatile atomic<T>* cell, elinvar_value_of<T> value, memory_order) {    \
    return call(elinvar_cell(cell), value);                                                                            \
  }
ELINVAR_ATOMIC(add, atomicAdd)
ELINVAR_ATOMIC(max, atomicMax)
ELINVAR_ATOMIC(min, atomicMin)
ELINVAR_ATOMIC(and, atomicAnd)
ELINVAR_ATOMIC(or, atomicOr)
ELINVAR_ATOMIC(xor, atomicXor)
template <class T>
ELINVAR_FN T atomic_fetch_sub_explicit(volatile atomic<T>* cell, elinvar_value_of<T> value, memory_order) {
  return atomicAdd(elinvar_cell(cell), T(-value));
}
template <class T>
ELINVAR_FN T atomic_exchange_explicit(volatile atomic<T>* cell, elinvar_value_of<T> value, memory_order) {
  return T(atomicExch(elinvar_cell(cell), elinvar_cell_of<T>(value)));
}
template <class T> ELINVAR_FN T atomic_load_explicit(const volatile atomic<T>* cell, memory_order) {
  return T(*const_cast<const volatile elinvar_cell_of<T>*>(&cell->value));
}
template <class T>
ELINVAR_FN void atomic_store_explicit(volatile atomic<T>* cell, elinvar_value_of<T> value, memory_order) {
  *const_cast<volatile elinvar_cell_of<T>*>(&cell->value) = value;
}
template <class T>
ELINVAR_FN bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* cell, T* expected, elinvar_value_of<T> desired,
                                                      memory_order, memory_order) {
  typedef elinvar_cell_of<T> C;
  const C wanted = C(*expected), found = elinvar_swap(elinvar_cell(cell), wanted, C(desired));
  *expected = T(found);
  return elinvar_bits<uint>(found) == elinvar_bits<uint>(wanted);
}
}  // namespace metal

// ---- moving values between lanes ----------------------------------------------------------------------------------
constexpr uint elinvar_all_lanes = 0xffffffffu;
ELINVAR_FN uint elinvar_lane() {
  uint lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
// Any trivially copyable value, as 32-bit words; `move` is one of the four shuffles below.
template <class T, class M> ELINVAR_FN T elinvar_move(const T& value, M move) {
  if constexpr (sizeof(T) == 1) {
    return elinvar_bits<T>(uchar(move(uint(elinvar_bits<uchar>(value)))));
  } else if constexpr (sizeof(T) == 2) {
    return elinvar_bits<T>(ushort(move(uint(elinvar_bits<ushort>(value)))));
  } else {
    static_assert(sizeof(T) % 4 == 0, "this type cannot be moved between lanes");
    uint words[sizeof(T) / 4];
    memcpy(words, &value, sizeof(T));
    for (uint i = 0; i < sizeof(T) / 4; i++) words[i] = move(words[i]);
    T moved;
    memcpy(&moved, words, sizeof(T));
    return moved;
  }
}
template <int W = 32> struct elinvar_from {  // the lane given, within rows of W lanes
  uint lane;
  ELINVAR_FN uint operator()(uint word) const { return __shfl_sync(elinvar_all_lanes, word, int(lane), W); }
};
template <int W = 32> struct elinvar_across {
  uint mask;
  ELINVAR_FN uint operator()(uint word) const { return __shfl_xor_sync(elinvar_all_lanes, word, int(mask), W); }
};
template <int W = 32> struct elinvar_below {  // from lane - delta; unchanged where there is none
  uint delta;
  ELINVAR_FN uint operator()(uint word) const { return __shfl_up_sync(elinvar_all_lanes, word, delta, W); }
};
template <int W = 32> struct elinvar_above {  // from lane + delta; unchanged where there is none
  uint delta;
  ELINVAR_FN uint operator()(uint word) const { return __shfl_down_sync(elinvar_all_lanes, word, delta, W); }
};

// ---- reductions and scans -----------------------------------------------------------------------------------------
// half and bfloat are reduced in float and rounded once; small integers in 32 bits.
template <class T> struct elinvar_wide { typedef T type; };
template <> struct elinvar_wide<half> { typedef float type; };
template <> struct elinvar_wide<bfloat> { typedef float type; };
template <> struct elinvar_wide<char> { typedef int type; };
template <> struct elinvar_wide<short> { typedef int type; };
template <> struct elinvar_wide<uchar> { typedef uint type; };
template <> struct elinvar_wide<ushort> { typedef uint type; };
template <class T, int N> struct elinvar_wide<vec<T, N>> { typedef vec<typename elinvar_wide<T>::type, N> type; };

struct elinvar_add { template <class T> ELINVAR_FN T operator()(T a, T b) const { return a + b; } };
struct elinvar_times { template <class T> ELINVAR_FN T operator()(T a, T b) const { return a * b; } };
struct elinvar_most { template <class T> ELINVAR_FN T operator()(T a, T b) const { return metal::max(a, b); } };
struct elinvar_least { template <class T> ELINVAR_FN T operator()(T a, T b) const { return metal::min(a, b); } };
struct elinvar_both { template <class T> ELINVAR_FN T operator()(T a, T b) const { return a & b; } };
struct elinvar_either { template <class T> ELINVAR_FN T operator()(T a, T b) const { return a | b; } };
struct elinvar_differ { template <class T> ELINVAR_FN T operator()(T a, T b) const { return a ^ b; } };

// What is read once should not drive out of the second-level cache what is read again.
ELINVAR_FN metal::float4 elinvar_load_once(const metal::float4* p) {
  const ::float4 v = __ldcs(reinterpret_cast<const ::float4*>(p));
  return metal::float4(v.x, v.y, v.z, v.w);
}

// sm_80 reduces 32-bit integers in one instruction.
#if __CUDA_ARCH__ >= 800
#define ELINVAR_REDUX(O, T, call) \
  ELINVAR_FN T elinvar_redux(O, T value) { return call(elinvar_all_lanes, value); }
ELINVAR_REDUX(elinvar_add, int, __reduce_add_sync) ELINVAR_REDUX(elinvar_add, uint, __reduce_add_sync)
ELINVAR_REDUX(elinvar_most, int, __reduce_max_sync) ELINVAR_REDUX(elinvar_most, uint, __reduce_max_sync)
ELINVAR_REDUX(elinvar_least, int, __reduce_min_sync) ELINVAR_REDUX(elinvar_least, uint, __reduce_min_sync)
ELINVAR_REDUX(elinvar_both, uint, __reduce_and_sync) ELINVAR_REDUX(elinvar_either, uint, __reduce_or_sync)
ELINVAR_REDUX(elinvar_differ, uint, __reduce_xor_sync)
template <class O, class T, class = void> struct elinvar_has_redux : metal::false_type {};
template <class O, class T>
struct elinvar_has_redux<O, T, metal::void_t<decltype(elinvar_redux(O(), metal::declval<T>()))>>
    : metal::integral_constant<bool, (metal::is_same_v<T, int> || metal::is_same_v<T, uint>)> {};
#else
template <class O, class T> struct elinvar_has_redux : metal::false_type {};
template <class O, class T> ELINVAR_FN T elinvar_redux(O, T value) { return value; }
#endif

// A butterfly: every lane ends with the bits of one and the same sum.
template <int W, class O, class T> ELINVAR_FN T elinvar_reduce(T given, O op) {
  typename elinvar_wide<T>::type value(given);
  if constexpr (W == 32 && elinvar_has_redux<O, typename elinvar_wide<T>::type>::value) {
    return T(elinvar_redux(op, value));
  } else {
    for (uint step = W / 2; step > 0; step /= 2) value = op(value, elinvar_move(value, elinvar_across<W>{step}));
    return T(value);
  }
}
template <int W, class O, class T> ELINVAR_FN typename elinvar_wide<T>::type elinvar_scan(T given, O op) {
  typename elinvar_wide<T>::type value(given);
  const uint lane = elinvar_lane() % W;
  for (uint step = 1; step < W; step *= 2) {
    const auto before = elinvar_move(value, elinvar_below<W>{step});
    if (lane >= step) value = op(before, value);
  }
  return value;
}
template <int W, class O, class T> ELINVAR_FN T elinvar_scan_before(T given, O op, T first) {
  const auto before = elinvar_move(elinvar_scan<W>(given, op), elinvar_below<W>{1u});
  return elinvar_lane() % W == 0 ? first : T(before);
}

namespace metal {
struct simd_vote {
  typedef ulong vote_t;
  uint elinvar_mask;
  simd_vote() = default;
  ELINVAR_FN explicit constexpr simd_vote(vote_t mask) : elinvar_mask(uint(mask)) {}
  ELINVAR_FN explicit constexpr operator vote_t() const { return elinvar_mask; }
  ELINVAR_FN constexpr bool all() const { return elinvar_mask == elinvar_all_lanes; }
  ELINVAR_FN constexpr bool any() const { return elinvar_mask != 0; }
};
struct quad_vote {
  typedef uint vote_t;
  uint elinvar_mask;
  quad_vote() = default;
  ELINVAR_FN explicit constexpr quad_vote(vote_t mask) : elinvar_mask(mask) {}
  ELINVAR_FN explicit constexpr operator vote_t() const { return elinvar_mask; }
  ELINVAR_FN constexpr bool all() const { return elinvar_mask == 15u; }
  ELINVAR_FN constexpr bool any() const { return elinvar_mask != 0; }
};

#define ELINVAR_GROUP_OPERATIONS(prefix, W)                                                                            \
  template <class T> ELINVAR_FN T prefix##_sum(T v) { return elinvar_reduce<W>(v, elinvar_add()); }                    \
  template <class T> ELINVAR_FN T prefix##_product(T v) { return elinvar_reduce<W>(v, elinvar_times()); }              \
  template <class T> ELINVAR_FN T prefix##_max(T v) { return elinvar_reduce<W>(v, elinvar_most()); }                   \
  template <class T> ELINVAR_FN T prefix##_min(T v) { return elinvar_reduce<W>(v, elinvar_least()); }                  \
  template <class T> ELINVAR_FN T prefix##_and(T v) { return elinvar_reduce<W>(v, elinvar_both()); }                   \
  template <class T> ELINVAR_FN T prefix##_or(T v) { return elinvar_reduce<W>(v, elinvar_either()); }                  \
  template <class T> ELINVAR_FN T prefix##_xor(T v) { return elinvar_reduce<W>(v, elinvar_differ()); }                 \
  template <class T> ELINVAR_FN T prefix##_prefix_inclusive_sum(T v) { return T(elinvar_scan<W>(v, elinvar_add())); }  \
  template <class T> ELINVAR_FN T prefix##_prefix_inclusive_product(T v) {                                             \
    return T(elinvar_scan<W>(v, elinvar_times()));                                                                     \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_prefix_exclusive_sum(T v) {                                                 \
    return elinvar_scan_before<W>(v, elinvar_add(), T(0));                                                             \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_prefix_exclusive_product(T v) {                                             \
    return elinvar_scan_before<W>(v, elinvar_times(), T(1));                                                           \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_broadcast(T v, ushort lane) { return elinvar_move(v, elinvar_from<W>{lane}); } \
  template <class T> ELINVAR_FN T prefix##_broadcast_first(T v) { return elinvar_move(v, elinvar_from<W>{0u}); }       \
  template <class T> ELINVAR_FN T prefix##_shuffle(T v, ushort lane) { return elinvar_move(v, elinvar_from<W>{lane}); } \
  template <class T> ELINVAR_FN T prefix##_shuffle_xor(T v, ushort mask) {                                             \
    return elinvar_move(v, elinvar_across<W>{mask});                                                                   \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_up(T v, ushort delta) {                                             \
    return elinvar_move(v, elinvar_below<W>{delta});                                                                   \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_down(T v, ushort delta) {                                           \
    return elinvar_move(v, elinvar_above<W>{delta});                                                                   \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_rotate_up(T v, ushort delta) {                                      \
    return elinvar_move(v, elinvar_from<W>{(elinvar_lane() - delta) % W});                                             \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_rotate_down(T v, ushort delta) {                                    \
    return elinvar_move(v, elinvar_from<W>{(elinvar_lane() + delta) % W});                                             \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_and_fill_up(T v, T filling, ushort delta) {                         \
    const uint lane = elinvar_lane() % W;                                                                              \
    const T moved = elinvar_move(v, elinvar_below<W>{delta});                                                          \
    const T filled = elinvar_move(filling, elinvar_from<W>{(lane - delta) % W});                                       \
    return lane < delta ? filled : moved;                                                                              \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_and_fill_down(T v, T filling, ushort delta) {                       \
    const uint lane = elinvar_lane() % W;                                                                              \
    const T moved = elinvar_move(v, elinvar_above<W>{delta});                                                          \
    const T filled = elinvar_move(filling, elinvar_from<W>{(lane + delta) % W});                                       \
    return lane + delta >= W ? filled : moved;                                                                         \
  }
ELINVAR_GROUP_OPERATIONS(simd, 32u)
ELINVAR_GROUP_OPERATIONS(quad, 4u)

ELINVAR_FN simd_vote simd_ballot(bool yes) { return simd_vote(ulong(__ballot_sync(elinvar_all_lanes, yes))); }
ELINVAR_FN simd_vote simd_active_threads_mask() { return simd_vote(ulong(__activemask())); }
ELINVAR_FN bool simd_all(bool yes) { return __all_sync(elinvar_all_lanes, yes); }
ELINVAR_FN bool simd_any(bool yes) { return __any_sync(elinvar_all_lanes, yes); }
ELINVAR_FN bool simd_is_first() { return elinvar_lane() == uint(__ffs(int(__activemask()))) - 1u; }
ELINVAR_FN quad_vote quad_ballot(bool yes) {
  return quad_vote(__ballot_sync(elinvar_all_lanes, yes) >> (elinvar_lane() & 28u) & 15u);
}
ELINVAR_FN quad_vote quad_active_threads_mask() { return quad_vote(__activemask() >> (elinvar_lane() & 28u) & 15u); }
ELINVAR_FN bool quad_all(bool yes) { return quad_ballot(yes).all(); }
ELINVAR_FN bool quad_any(bool yes) { return quad_ballot(yes).any(); }
ELINVAR_FN bool quad_is_first() { return (elinvar_lane() & 3u) == 0u; }
}  // namespace metal
}  // namespace elinvar_msl
#include "msl_simdgroup.h"
namespace elinvar_msl {
using namespace metal;

// ---- from the launch to a kernel's arguments ----------------------------------------------------------------------
// Values travel as 64-bit words; pointers as `void*`, const and restrict where the kernel only reads.
template <class F> struct elinvar_signature;
template <class R, class... A> struct elinvar_signature<R (*)(A...)> {
  template <int I, class First, class... Rest> struct pick { typedef typename pick<I - 1, Rest...>::type type; };
  template <class First, class... Rest> struct pick<0, First, Rest...> { typedef First type; };
  template <int I> using at = typename pick<I, A...>::type;
};
template <class T> struct elinvar_holder { metal::remove_cv_t<T> value; };  // a struct, so that arrays can be values too
template <class T, class... W> ELINVAR_FN T elinvar_from_words(W... words) {
  static_assert(sizeof...(W) * 8 >= sizeof(T), "the launch passed too few words");
  const ulong all[] = {words...};
  T value;
  memcpy(&value, all, sizeof(T));
  return value;
}
struct elinvar_place {
  uint grid[3], size[3], group[3], inside[3], at[3];
};
// Where this thread stands. CUDA allows 65 535 groups in y and z: a launch with more puts them all along x.
ELINVAR_FN elinvar_place elinvar_where(ulong grid_xy, ulong grid_z, bool flat) {
  elinvar_place p;
  p.grid[0] = uint(grid_xy); p.grid[1] = uint(grid_xy >> 32); p.grid[2] = uint(grid_z);
  p.size[0] = blockDim.x; p.size[1] = blockDim.y; p.size[2] = blockDim.z;
  p.inside[0] = threadIdx.x; p.inside[1] = threadIdx.y; p.inside[2] = threadIdx.z;
  p.group[0] = blockIdx.x; p.group[1] = blockIdx.y; p.group[2] = blockIdx.z;
  if (flat) {
    const uint columns = (p.grid[0] - 1u) / p.size[0] + 1u, rows = (p.grid[1] - 1u) / p.size[1] + 1u;
    p.group[1] = p.group[0] / columns % rows;
    p.group[2] = p.group[0] / columns / rows;
    p.group[0] = p.group[0] % columns;
  }
  for (int i = 0; i < 3; i++) p.at[i] = p.group[i] * p.size[i] + p.inside[i];
  return p;
}
ELINVAR_FN bool elinvar_outside(const elinvar_place& p) {
  return p.at[0] >= p.grid[0] || p.at[1] >= p.grid[1] || p.at[2] >= p.grid[2];
}
ELINVAR_FN uint elinvar_index_in_group(const elinvar_place& p) {
  return p.inside[0] + p.size[0] * (p.inside[1] + p.size[1] * p.inside[2]);
}
ELINVAR_FN uint elinvar_groups(const elinvar_place& p, int i) { return (p.grid[i] - 1u) / p.size[i] + 1u; }
// The simdgroup's number is the same in all its lanes; asking lane 0 tells the compiler so.
ELINVAR_FN uint elinvar_simdgroup(const elinvar_place& p) {
  return __shfl_sync(elinvar_all_lanes, elinvar_index_in_group(p) >> 5, 0);
}
}  // namespace elinvar_msl
