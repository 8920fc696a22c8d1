// msl_simdgroup.h - 8 x 8 matrices that a simdgroup holds together (specification 6.7), two elements in every lane.
//
// Lane l has row l / 4, columns 2 (l % 4) and the next: of the matrix or, when it is `turned`, of its transpose. NVIDIA's
// matrix units want the left operand straight and the right one turned; a load that transposes leaves the matrix turned
// instead of moving anything, so that the usual x w' costs nothing extra. All 32 lanes take part in every call.
//
// `thread_elements()` is a lane's two elements of the straight matrix, as on Apple GPUs, where other lanes have them: a
// kernel may do with it what treats every element alike.
#pragma once

namespace elinvar_msl {
namespace metal {
#ifdef ELINVAR_CUDA
ELINVAR_FN uint elinvar_my_lane() { return elinvar_lane(); }
#else
ELINVAR_FN uint elinvar_my_lane() { return elinvar_lane_index() % 32u; }
#endif
template <class T, int C, int R> struct simdgroup_matrix {
  static_assert(C == 8 && R == 8, "a simdgroup matrix has 8 columns and 8 rows");
  vec<T, 2> elinvar_e;
  bool elinvar_turned;
#ifdef ELINVAR_CUDA
  float elinvar_beyond[2] = {0.0f, 0.0f};  // rows 8 to 15 of what the matrix units add to: nobody looks at them
  uint elinvar_below = 0u;                 // the same of sums of halves
#endif
  ELINVAR_FN simdgroup_matrix() : elinvar_turned(false) {}
  ELINVAR_FN explicit simdgroup_matrix(T diagonal) : elinvar_turned(false) {
    const uint lane = elinvar_my_lane();
    for (uint i = 0; i < 2; i++) elinvar_e[i] = lane / 4u == 2u * (lane % 4u) + i ? diagonal : T(0);
  }
#ifdef ELINVAR_CUDA
  ELINVAR_FN vec<T, 2>& thread_elements() {
    if (elinvar_turned) elinvar_straighten(*this);
    return elinvar_e;
  }
#else
  ELINVAR_FN vec<T, 2>& thread_elements(ELINVAR_SITE) {
    if (elinvar_turned) elinvar_straighten(*this, file, line);
    return elinvar_e;
  }
#endif
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int C, int R> ELINVAR_FN simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, C, R> m;
  m.elinvar_e[0] = m.elinvar_e[1] = value;
  return m;
}
template <class T>
ELINVAR_FN void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* from, ulong row_length = 8,
                               ulong2 origin = ulong2(0), bool transpose = false) {
  const uint lane = elinvar_my_lane();
  const T* p = from + (origin.y + lane / 4u) * row_length + origin.x + 2u * (lane % 4u);
  m.elinvar_turned = transpose;
  m.elinvar_e[0] = p[0];
  m.elinvar_e[1] = p[1];
}
template <class T>
ELINVAR_FN void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* to, ulong row_length = 8,
                                ulong2 origin = ulong2(0), bool transpose = false) {
  const uint lane = elinvar_my_lane();
  const ulong row = lane / 4u, column = 2u * (lane % 4u);
  T* p = to + origin.y * row_length + origin.x;
  const bool turned = m.elinvar_turned != transpose;
  for (uint i = 0; i < 2; i++) p[turned ? (column + i) * row_length + row : row * row_length + column + i] = m.elinvar_e[i];
}

#ifdef ELINVAR_CUDA
// The matrix's own row and columns of this lane, or the transpose's.
template <class T> ELINVAR_FN void elinvar_face(const simdgroup_matrix<T, 8, 8>& m, bool turned, T (&e)[2]) {
  if (m.elinvar_turned == turned) {
    e[0] = m.elinvar_e[0];
    e[1] = m.elinvar_e[1];
  } else if constexpr (sizeof(T) == 2) {
    uint word, moved;
    memcpy(&word, &m.elinvar_e, 4);
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(moved) : "r"(word));
    memcpy(e, &moved, 4);
  } else {
    const uint lane = elinvar_lane();
    for (uint i = 0; i < 2; i++) {
      const ushort from = ushort((2u * (lane % 4u) + i) * 4u + lane / 8u);
      const T even = simd_shuffle(m.elinvar_e[0], from), odd = simd_shuffle(m.elinvar_e[1], from);
      e[i] = lane / 4u % 2u == 0 ? even : odd;
    }
  }
}
template <class T> ELINVAR_FN void elinvar_straighten(simdgroup_matrix<T, 8, 8>& m) {
  T e[2];
  elinvar_face(m, false, e);
  m.elinvar_e = vec<T, 2>(e[0], e[1]);
  m.elinvar_turned = false;
}
#define ELINVAR_SIMDGROUP_PRODUCT(T, name)                                                                             \
  ELINVAR_FN void elinvar_multiply(float (&sum)[2], float (&beyond)[2], const T (&a)[2], const T (&b)[2]) {            \
    uint left, right;                                                                                                  \
    memcpy(&left, a, 4);                                                                                               \
    memcpy(&right, b, 4);                                                                                              \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "       \
                 "{%7, %8, %9, %10};"                                                                                  \
                 : "=f"(sum[0]), "=f"(sum[1]), "=f"(beyond[0]), "=f"(beyond[1])                                        \
                 : "r"(left), "r"(0u), "r"(right), "f"(sum[0]), "f"(sum[1]), "f"(beyond[0]), "f"(beyond[1]));          \
  }
ELINVAR_SIMDGROUP_PRODUCT(half, "f16")
ELINVAR_SIMDGROUP_PRODUCT(bfloat, "bf16")
ELINVAR_FN void elinvar_multiply(vec<half, 2>& sum, uint& below, const half (&a)[2], const half (&b)[2]) {
  uint left, right;
  memcpy(&left, a, 4);
  memcpy(&right, b, 4);
  asm volatile("{.reg .b32 s; mov.b32 s, {%0, %1}; mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {s, %2}, {%3, %4}, {%5}, "
      "{s, %2}; mov.b32 {%0, %1}, s;}"
      : "+h"(sum.v[0].bits), "+h"(sum.v[1].bits), "+r"(below)
      : "r"(left), "r"(0u), "r"(right));
}
ELINVAR_FN void elinvar_multiply(float (&sum)[2], float (&)[2], const float (&a)[2], const float (&b)[2]) {  // b: turned
  const uint lane = elinvar_lane();
  for (uint k = 0; k < 8; k++) {
    const float left = simd_shuffle(a[k % 2u], ushort(lane / 4u * 4u + k / 2u));
    for (uint i = 0; i < 2; i++)
      sum[i] = fma(left, simd_shuffle(b[k % 2u], ushort((2u * (lane % 4u) + i) * 4u + k / 2u)), sum[i]);
  }
}
template <class D, class A, class B, class S>
ELINVAR_FN void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<S, 8, 8>& s) {
  static_assert(is_same_v<A, B>, "both factors have one type");
  A left[2], right[2];
  S start[2];
  elinvar_face(a, false, left);
  elinvar_face(b, true, right);
  elinvar_face(s, false, start);
  if constexpr (is_same_v<A, half> && is_same_v<D, half> && is_same_v<S, half>) {
    vec<half, 2> sum(start[0], start[1]);
    uint below = s.elinvar_below;
    elinvar_multiply(sum, below, left, right);
    d.elinvar_e = sum;
    d.elinvar_below = below;
    d.elinvar_turned = false;
    return;
  }
  float sum[2] = {float(start[0]), float(start[1])}, beyond[2] = {s.elinvar_beyond[0], s.elinvar_beyond[1]};
  elinvar_multiply(sum, beyond, left, right);
  d.elinvar_beyond[0] = beyond[0];
  d.elinvar_beyond[1] = beyond[1];
  d.elinvar_e[0] = D(sum[0]);
  d.elinvar_e[1] = D(sum[1]);
  d.elinvar_turned = false;
}
template <class D, class A, class B>
ELINVAR_FN void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f));
}
#else
// One exchange of a lane's two elements, and of which way they lie.
template <class T> struct elinvar_pair_of { T e[2]; unsigned turned; };
template <class T> ELINVAR_FN float elinvar_at(const elinvar_simd<elinvar_pair_of<T>>& all, uint row, uint column) {
  const bool turned = all.value[all.lane].turned != 0;
  const uint r = turned ? column : row, c = turned ? row : column;
  return float(all.value[r * 4u + c / 2u].e[c % 2u]);
}
template <class T> ELINVAR_FN void elinvar_straighten(simdgroup_matrix<T, 8, 8>& m, const char* file, int line) {
  const elinvar_simd<elinvar_pair_of<T>> all(32, {{m.elinvar_e[0], m.elinvar_e[1]}, m.elinvar_turned}, "thread_elements",
                                             file, line);
  const uint row = all.lane / 4u, column = 2u * (all.lane % 4u);
  for (uint i = 0; i < 2; i++) m.elinvar_e[i] = T(elinvar_at(all, row, column + i));
  m.elinvar_turned = false;
}
template <class D, class A, class B, class S>
ELINVAR_FN void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<S, 8, 8>& s,
                                              ELINVAR_SITE) {
  static_assert(is_same_v<A, B>, "both factors have one type");
  const char* what = "simdgroup_multiply_accumulate";
  const elinvar_simd<elinvar_pair_of<A>> left(32, {{a.elinvar_e[0], a.elinvar_e[1]}, a.elinvar_turned}, what, file, line);
  const elinvar_simd<elinvar_pair_of<B>> right(32, {{b.elinvar_e[0], b.elinvar_e[1]}, b.elinvar_turned}, what, file, line);
  const elinvar_simd<elinvar_pair_of<S>> start(32, {{s.elinvar_e[0], s.elinvar_e[1]}, s.elinvar_turned}, what, file, line);
  const uint row = left.lane / 4u, column = 2u * (left.lane % 4u);
  for (uint i = 0; i < 2; i++) {
    float sum = elinvar_at(start, row, column + i);
    for (uint k = 0; k < 8; k++) sum = fma(elinvar_at(left, row, k), elinvar_at(right, k, column + i), sum);
    d.elinvar_e[i] = D(sum);
  }
  d.elinvar_turned = false;
}
template <class D, class A, class B>
ELINVAR_FN void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b, ELINVAR_SITE) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f), file, line);
}
#endif
}  // namespace metal
}  // namespace elinvar_msl
