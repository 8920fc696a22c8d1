// emulator.h - the emulator's prelude: Metal's threads as fibres of one processor thread.
#pragma once
#define ELINVAR_FN inline __attribute__((always_inline))
#define ELINVAR_KERNEL
#define ELINVAR_CONSTANT static const
#define ELINVAR_THREADGROUP(name, dims, ...)                                                                           \
  typedef __VA_ARGS__ elinvar_type_##name dims;                                                                        \
  static elinvar_slot elinvar_slot_##name;                                                                             \
  elinvar_type_##name& name = *(elinvar_type_##name*)elinvar_threadgroup(                                              \
      &elinvar_slot_##name, sizeof(elinvar_type_##name), alignof(elinvar_type_##name), elinvar_poison<__VA_ARGS__>::byte, \
      __builtin_FILE(), __builtin_LINE())
#define ELINVAR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#include "emulator_abi.h"
#include "msl_types.h"

namespace elinvar_msl {
// Fresh threadgroup memory holds what no kernel expects: NaN in every floating-point type, 0xa5 in integers.
template <class T> struct elinvar_poison {
  static constexpr int byte = elinvar_kind_v<elinvar_element<T>> == 4 || elinvar_kind_v<elinvar_element<T>> == 0 ? 0xff : 0xa5;
};
template <class T> struct elinvar_poison<metal::atomic<T>> : elinvar_poison<T> {};

// ---- what a kernel's arguments are made from ----
struct elinvar_pointer {
  void* value;
  template <class T> ELINVAR_FN operator T*() const { return (T*)value; }
};
struct elinvar_reference {
  void* value;
  template <class T> ELINVAR_FN operator T&() const { return *(T*)value; }
};
template <class V> ELINVAR_FN V elinvar_position(const unsigned* at) {
  if constexpr (elinvar_shape<V>::count == 0) {
    return V(at[0]);
  } else {
    V result(0);
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = typename V::value_type(at[i]);
    return result;
  }
}

namespace metal {
ELINVAR_FN void threadgroup_barrier(mem_flags flags, ELINVAR_SITE) { elinvar_wait(0, unsigned(flags), "threadgroup_barrier", file, line); }
ELINVAR_FN void simdgroup_barrier(mem_flags flags, ELINVAR_SITE) { elinvar_wait(32, unsigned(flags), "simdgroup_barrier", file, line); }

// ---- simd and quad operations -------------------------------------------------------------------------------------
// Sums and products of floats are taken as a GPU takes them: pairs 16 lanes apart first, then 8, 4, 2, 1; prefixes by
// doubling distances 1, 2, 4, 8, 16. The NVIDIA prelude uses the same order, so the bits agree.
template <class T> struct elinvar_simd {
  T value[32];
  unsigned lane, count;
  ELINVAR_FN elinvar_simd(unsigned width, const T& mine, const char* what, const char* file, int line) {
    static_assert(sizeof(T) <= ELINVAR_LANE_BYTES, "too wide for a simd operation");
    const elinvar_lanes lanes = elinvar_exchange(width, &mine, sizeof(T), what, file, line);
    lane = lanes.lane;
    count = lanes.count;
    for (unsigned i = 0; i < count; i++) __builtin_memcpy((void*)&value[i], lanes.values[i], sizeof(T));
  }
  ELINVAR_FN T at(unsigned from, const char* what, const char* file, int line) const {
    if (from >= count) elinvar_bad_lane(from, what, file, line);
    return value[from < count ? from : lane];
  }
};
struct elinvar_add { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return T(a + b); } };
struct elinvar_mul { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return T(a * b); } };
struct elinvar_min { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return min(a, b); } };
struct elinvar_max { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return max(a, b); } };
struct elinvar_and { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return T(a & b); } };
struct elinvar_or { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return T(a | b); } };
struct elinvar_xor { template <class T> ELINVAR_FN static T of(const T& a, const T& b) { return T(a ^ b); } };
template <class Op, class T> ELINVAR_FN T elinvar_reduce(elinvar_simd<T> x) {
  for (unsigned step = 16; step; step >>= 1)
    for (unsigned i = 0; i < step; i++)
      if (i + step < x.count) x.value[i] = Op::of(x.value[i], x.value[i + step]);
  return x.value[0];
}
template <class Op, class T> ELINVAR_FN T elinvar_scan(elinvar_simd<T> x, bool inclusive, T identity) {
  for (unsigned step = 1; step < x.count; step <<= 1)
    for (unsigned i = x.count; i-- > step;) x.value[i] = Op::of(x.value[i - step], x.value[i]);
  return inclusive ? x.value[x.lane] : x.lane ? x.value[x.lane - 1] : identity;
}
#define ELINVAR_REDUCE(prefix, width, name, Op)                                                                        \
  template <class T> ELINVAR_FN T prefix##_##name(T x, ELINVAR_SITE) {                                                 \
    return elinvar_reduce<Op>(elinvar_simd<T>(width, x, #prefix "_" #name, file, line));                               \
  }
#define ELINVAR_SCAN(prefix, width, name, Op, identity)                                                                \
  template <class T> ELINVAR_FN T prefix##_prefix_inclusive_##name(T x, ELINVAR_SITE) {                                \
    return elinvar_scan<Op>(elinvar_simd<T>(width, x, #prefix "_prefix_inclusive_" #name, file, line), true, T(identity)); \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_prefix_exclusive_##name(T x, ELINVAR_SITE) {                                \
    return elinvar_scan<Op>(elinvar_simd<T>(width, x, #prefix "_prefix_exclusive_" #name, file, line), false, T(identity)); \
  }
#define ELINVAR_FROM(prefix, width, name, arguments, source)                                                           \
  template <class T> ELINVAR_FN T prefix##_##name(T x, arguments ELINVAR_SITE) {                                       \
    const elinvar_simd<T> all(width, x, #prefix "_" #name, file, line);                                                \
    const unsigned me = all.lane, n = all.count;                                                                       \
    (void)me, (void)n;                                                                                                 \
    return all.at(source, #prefix "_" #name, file, line);                                                              \
  }
#define ELINVAR_COMMA ,
struct simd_vote {
  typedef ulong vote_t;
  vote_t bits;
  unsigned count;
  ELINVAR_FN explicit constexpr simd_vote(vote_t votes = 0, unsigned width = 32) : bits(votes), count(width) {}
  ELINVAR_FN explicit constexpr operator vote_t() const { return bits; }
  ELINVAR_FN bool all() const { return bits == (count == 64 ? ~vote_t(0) : (vote_t(1) << count) - 1); }
  ELINVAR_FN bool any() const { return bits != 0; }
};
typedef simd_vote quad_vote;
ELINVAR_FN simd_vote elinvar_ballot(unsigned width, bool x, const char* what, const char* file, int line) {
  const elinvar_simd<uchar> all(width, uchar(x), what, file, line);
  ulong bits = 0;
  for (unsigned i = 0; i < all.count; i++) bits |= ulong(all.value[i] != 0) << i;
  return simd_vote(bits, all.count);
}
#define ELINVAR_WIDTH_OPERATIONS(prefix, width)                                                                        \
  ELINVAR_REDUCE(prefix, width, sum, elinvar_add) ELINVAR_REDUCE(prefix, width, product, elinvar_mul)                  \
  ELINVAR_REDUCE(prefix, width, min, elinvar_min) ELINVAR_REDUCE(prefix, width, max, elinvar_max)                      \
  ELINVAR_REDUCE(prefix, width, and, elinvar_and) ELINVAR_REDUCE(prefix, width, or, elinvar_or)                        \
  ELINVAR_REDUCE(prefix, width, xor, elinvar_xor)                                                                      \
  ELINVAR_SCAN(prefix, width, sum, elinvar_add, 0) ELINVAR_SCAN(prefix, width, product, elinvar_mul, 1)                \
  ELINVAR_FROM(prefix, width, broadcast, ushort source ELINVAR_COMMA, source)                                          \
  ELINVAR_FROM(prefix, width, broadcast_first, , 0)                                                                    \
  ELINVAR_FROM(prefix, width, shuffle, ushort source ELINVAR_COMMA, source)                                            \
  ELINVAR_FROM(prefix, width, shuffle_xor, ushort mask ELINVAR_COMMA, me ^ mask)                                       \
  ELINVAR_FROM(prefix, width, shuffle_up, ushort delta ELINVAR_COMMA, me < delta ? me : me - delta)                    \
  ELINVAR_FROM(prefix, width, shuffle_down, ushort delta ELINVAR_COMMA, me + delta >= n ? me : me + delta)             \
  ELINVAR_FROM(prefix, width, shuffle_rotate_up, ushort delta ELINVAR_COMMA, (me + n - delta % n) % n)                 \
  ELINVAR_FROM(prefix, width, shuffle_rotate_down, ushort delta ELINVAR_COMMA, (me + delta) % n)                       \
  ELINVAR_FN simd_vote prefix##_ballot(bool x, ELINVAR_SITE) { return elinvar_ballot(width, x, #prefix "_ballot", file, line); } \
  ELINVAR_FN bool prefix##_all(bool x, ELINVAR_SITE) { return elinvar_ballot(width, x, #prefix "_all", file, line).all(); } \
  ELINVAR_FN bool prefix##_any(bool x, ELINVAR_SITE) { return elinvar_ballot(width, x, #prefix "_any", file, line).any(); } \
  ELINVAR_FN simd_vote prefix##_active_threads_mask(ELINVAR_SITE) {                                                    \
    return elinvar_ballot(width, true, #prefix "_active_threads_mask", file, line);                                    \
  }                                                                                                                    \
  ELINVAR_FN bool prefix##_is_first() { return elinvar_lane_index() % width == 0; }                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_and_fill_up(T x, T fill, ushort delta, ushort modulo = width, ELINVAR_SITE) { \
    const elinvar_simd<T> all(width, x, #prefix "_shuffle_and_fill_up", file, line);                                   \
    const elinvar_simd<T> filling(width, fill, #prefix "_shuffle_and_fill_up", file, line);                            \
    const unsigned base = all.lane / modulo * modulo, me = all.lane % modulo;                                          \
    return me >= delta ? all.at(base + me - delta, "shuffle_and_fill_up", file, line)                                  \
                       : filling.at(base + modulo + me - delta, "shuffle_and_fill_up", file, line);                    \
  }                                                                                                                    \
  template <class T> ELINVAR_FN T prefix##_shuffle_and_fill_down(T x, T fill, ushort delta, ushort modulo = width, ELINVAR_SITE) { \
    const elinvar_simd<T> all(width, x, #prefix "_shuffle_and_fill_down", file, line);                                 \
    const elinvar_simd<T> filling(width, fill, #prefix "_shuffle_and_fill_down", file, line);                          \
    const unsigned base = all.lane / modulo * modulo, me = all.lane % modulo;                                          \
    return me + delta < modulo ? all.at(base + me + delta, "shuffle_and_fill_down", file, line)                        \
                               : filling.at(base + me + delta - modulo, "shuffle_and_fill_down", file, line);          \
  }
ELINVAR_WIDTH_OPERATIONS(simd, 32)
ELINVAR_WIDTH_OPERATIONS(quad, 4)

// ---- atomics ------------------------------------------------------------------------------------------------------
template <class T> constexpr unsigned elinvar_atomic_type = elinvar_kind_v<T> == 4 ? 2 : elinvar_kind_v<T> == 2 ? 0 : 1;
template <class T> ELINVAR_FN unsigned elinvar_word(T x) {
  if constexpr (sizeof(T) == 4) return elinvar_bits<unsigned>(x);
  else return unsigned(x);
}
template <class T> ELINVAR_FN T elinvar_unword(unsigned x) {
  if constexpr (sizeof(T) == 4) return elinvar_bits<T>(x);
  else return T(x);
}
template <class T> ELINVAR_FN T elinvar_atomic_do(const volatile atomic<T>* where, unsigned op, T operand) {
  return elinvar_unword<T>(elinvar_atomic((void*)where, elinvar_atomic_type<T>, op, elinvar_word(operand)));
}
template <class T> struct elinvar_same { typedef T type; };  // the operand converts to the atomic's own type
template <class T> using elinvar_same_t = typename elinvar_same<T>::type;
template <class T> ELINVAR_FN T atomic_load_explicit(const volatile atomic<T>* a, memory_order) { return elinvar_atomic_do(a, ELINVAR_LOAD, T()); }
template <class T> ELINVAR_FN void atomic_store_explicit(volatile atomic<T>* a, elinvar_same_t<T> x, memory_order) { elinvar_atomic_do(a, ELINVAR_STORE, x); }
template <class T> ELINVAR_FN T atomic_exchange_explicit(volatile atomic<T>* a, elinvar_same_t<T> x, memory_order) { return elinvar_atomic_do(a, ELINVAR_SWAP, x); }
#define ELINVAR_FETCH(name, op, allowed)                                                                               \
  template <class T> ELINVAR_FN T atomic_fetch_##name##_explicit(volatile atomic<T>* a, elinvar_same_t<T> x, memory_order) { \
    static_assert(allowed, "Metal has no atomic_fetch_" #name " for this type");                                       \
    return elinvar_atomic_do(a, op, x);                                                                                \
  }
ELINVAR_FETCH(add, ELINVAR_ADD, (!is_same_v<T, bool>))
ELINVAR_FETCH(sub, ELINVAR_SUB, (!is_same_v<T, bool>))
ELINVAR_FETCH(min, ELINVAR_MIN, is_integral_v<T> && (!is_same_v<T, bool>))
ELINVAR_FETCH(max, ELINVAR_MAX, is_integral_v<T> && (!is_same_v<T, bool>))
ELINVAR_FETCH(and, ELINVAR_AND, is_integral_v<T>)
ELINVAR_FETCH(or, ELINVAR_OR, is_integral_v<T>)
ELINVAR_FETCH(xor, ELINVAR_XOR, is_integral_v<T>)
template <class T>
ELINVAR_FN bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* a, T* expected, elinvar_same_t<T> desired, memory_order, memory_order) {
  unsigned word = elinvar_word(*expected);
  const bool done = elinvar_atomic_exchange_if((void*)a, &word, elinvar_word(desired)) != 0;
  *expected = elinvar_unword<T>(word);
  return done;
}
}  // namespace metal
}  // namespace elinvar_msl
#include "msl_simdgroup.h"
