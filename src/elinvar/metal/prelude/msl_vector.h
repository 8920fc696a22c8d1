// msl_vector.h - vec<T, N> and packed_vec<T, N> with Metal's layout, constructors, swizzles and operators.
#pragma once
#include "msl_base.h"

namespace elinvar_msl {
namespace metal {
template <class T, int N> struct vec;
template <class T, int N> struct packed_vec;
}  // namespace metal
using metal::packed_vec;
using metal::vec;

// ---- what counts as a vector: vec, packed_vec and swizzles --------------------------------------------------------
// A swizzle is a view of its vector's own storage: all of a vector's swizzles share a union with its components.
template <class T, int S, int... I> struct elinvar_swizzle;
template <class A> struct elinvar_as_vec {};
template <class T, int N> struct elinvar_as_vec<vec<T, N>> { typedef vec<T, N> type; };
template <class T, int N> struct elinvar_as_vec<packed_vec<T, N>> { typedef vec<T, N> type; };
template <class T, int S, int... I> struct elinvar_as_vec<elinvar_swizzle<T, S, I...>> { typedef vec<T, sizeof...(I)> type; };
template <class A> using elinvar_vec_t = typename elinvar_as_vec<A>::type;

template <class A, class = void> struct elinvar_shape { typedef A element; static constexpr int count = 0; };
template <class A> struct elinvar_shape<A, metal::void_t<elinvar_vec_t<A>>> : elinvar_shape<elinvar_vec_t<A>, int> {};
template <class T, int N> struct elinvar_shape<vec<T, N>, int> { typedef T element; static constexpr int count = N; };
template <class A> using elinvar_element = typename elinvar_shape<A>::element;

// May scalar A stand for a vector of T? Integers may for any vector, floating-point scalars only for floating-point ones.
template <class T, class A>
constexpr bool elinvar_splats = elinvar_kind_v<A> != 0 && (elinvar_kind_v<A> != 4 || elinvar_kind_v<T> == 4);
// The vector type of `a op b`: equal vectors, or a vector and a scalar.
template <class A, class B, int NA, int NB> struct elinvar_pair_impl {};
template <class A, class B, int N> struct elinvar_pair_impl<A, B, N, N>
    : metal::enable_if<N != 0 && metal::is_same_v<elinvar_element<A>, elinvar_element<B>>, vec<elinvar_element<A>, N>> {};
template <class A, class B, int N> struct elinvar_pair_impl<A, B, N, 0>
    : metal::enable_if<elinvar_splats<elinvar_element<A>, B>, vec<elinvar_element<A>, N>> {};
template <class A, class B, int N> struct elinvar_pair_impl<A, B, 0, N>
    : metal::enable_if<elinvar_splats<elinvar_element<B>, A>, vec<elinvar_element<B>, N>> {};
template <class A, class B> struct elinvar_pair_impl<A, B, 0, 0> {};
template <class A, class B> using elinvar_pair =
    typename elinvar_pair_impl<A, B, elinvar_shape<A>::count, elinvar_shape<B>::count>::type;

// ---- swizzles -----------------------------------------------------------------------------------------------------
struct elinvar_read_t {};
constexpr elinvar_read_t elinvar_read = {};
template <class T> ELINVAR_FN constexpr T&& operator->*(T&& value, elinvar_read_t) { return static_cast<T&&>(value); }

template <int... I> struct elinvar_distinct { static constexpr bool value = true; };
template <int A, int B> struct elinvar_distinct<A, B> { static constexpr bool value = A != B; };
template <int A, int B, int C> struct elinvar_distinct<A, B, C> { static constexpr bool value = A != B && A != C && B != C; };
template <int A, int B, int C, int D> struct elinvar_distinct<A, B, C, D> {
  static constexpr bool value = elinvar_distinct<A, B, C>::value && A != D && B != D && C != D;
};

template <class T, int S, int... I> struct elinvar_swizzle {
  typedef vec<T, sizeof...(I)> value;
  T v[S];
  elinvar_swizzle() = default;
  elinvar_swizzle(const elinvar_swizzle&) = default;
  ELINVAR_FN constexpr operator value() const { return value(v[I]...); }
  ELINVAR_FN elinvar_swizzle& operator=(const elinvar_swizzle& other) { return *this = value(other); }
  ELINVAR_FN elinvar_swizzle& operator=(const value& other) {
    static_assert(elinvar_distinct<I...>::value, "a swizzle that is assigned to names each component once");
    const value copy(other);
    int k = 0;
    ((v[I] = copy.v[k++]), ...);
    return *this;
  }
  ELINVAR_FN constexpr T operator[](int i) const { return value(v[I]...)[i]; }
  ELINVAR_FN value operator-() const { return -value(v[I]...); }
  ELINVAR_FN value operator+() const { return value(v[I]...); }
  ELINVAR_FN value operator~() const { return ~value(v[I]...); }
  ELINVAR_FN vec<bool, sizeof...(I)> operator!() const { return !value(v[I]...); }
};
template <class T, int S, int... I>
ELINVAR_FN constexpr vec<T, sizeof...(I)> operator->*(const elinvar_swizzle<T, S, I...>& value, elinvar_read_t) {
  return value;
}
template <class T, int S, int... I>
ELINVAR_FN constexpr vec<T, sizeof...(I)> operator->*(elinvar_swizzle<T, S, I...>& value, elinvar_read_t) {
  return value;
}
template <class T, int S, int... I>
ELINVAR_FN constexpr vec<T, sizeof...(I)> operator->*(elinvar_swizzle<T, S, I...>&& value, elinvar_read_t) {
  return value;
}

#define ELINVAR_S2(a, i, b, j) elinvar_swizzle<T, ELINVAR_S, i, j> a##b;
#define ELINVAR_S3(a, i, b, j, c, k) elinvar_swizzle<T, ELINVAR_S, i, j, k> a##b##c;
#define ELINVAR_S4(a, i, b, j, c, k, d, l) elinvar_swizzle<T, ELINVAR_S, i, j, k, l> a##b##c##d;
// All names of length 2 to 4 over two, three or four component letters.
#define ELINVAR_2D(x, y, a, i, b, j, c, k)                                                                             \
  ELINVAR_S3(a, i, b, j, c, k) ELINVAR_S4(a, i, b, j, c, k, x, 0) ELINVAR_S4(a, i, b, j, c, k, y, 1)
#define ELINVAR_2C(x, y, a, i, b, j)                                                                                   \
  ELINVAR_S2(a, i, b, j) ELINVAR_2D(x, y, a, i, b, j, x, 0) ELINVAR_2D(x, y, a, i, b, j, y, 1)
#define ELINVAR_2B(x, y, a, i) ELINVAR_2C(x, y, a, i, x, 0) ELINVAR_2C(x, y, a, i, y, 1)
#define ELINVAR_SWIZZLES_2(x, y) ELINVAR_2B(x, y, x, 0) ELINVAR_2B(x, y, y, 1)
#define ELINVAR_3D(x, y, z, a, i, b, j, c, k)                                                                          \
  ELINVAR_S3(a, i, b, j, c, k) ELINVAR_S4(a, i, b, j, c, k, x, 0) ELINVAR_S4(a, i, b, j, c, k, y, 1)                   \
      ELINVAR_S4(a, i, b, j, c, k, z, 2)
#define ELINVAR_3C(x, y, z, a, i, b, j)                                                                                \
  ELINVAR_S2(a, i, b, j) ELINVAR_3D(x, y, z, a, i, b, j, x, 0) ELINVAR_3D(x, y, z, a, i, b, j, y, 1)                   \
      ELINVAR_3D(x, y, z, a, i, b, j, z, 2)
#define ELINVAR_3B(x, y, z, a, i)                                                                                      \
  ELINVAR_3C(x, y, z, a, i, x, 0) ELINVAR_3C(x, y, z, a, i, y, 1) ELINVAR_3C(x, y, z, a, i, z, 2)
#define ELINVAR_SWIZZLES_3(x, y, z) ELINVAR_3B(x, y, z, x, 0) ELINVAR_3B(x, y, z, y, 1) ELINVAR_3B(x, y, z, z, 2)
#define ELINVAR_4D(x, y, z, w, a, i, b, j, c, k)                                                                       \
  ELINVAR_S3(a, i, b, j, c, k) ELINVAR_S4(a, i, b, j, c, k, x, 0) ELINVAR_S4(a, i, b, j, c, k, y, 1)                   \
      ELINVAR_S4(a, i, b, j, c, k, z, 2) ELINVAR_S4(a, i, b, j, c, k, w, 3)
#define ELINVAR_4C(x, y, z, w, a, i, b, j)                                                                             \
  ELINVAR_S2(a, i, b, j) ELINVAR_4D(x, y, z, w, a, i, b, j, x, 0) ELINVAR_4D(x, y, z, w, a, i, b, j, y, 1)             \
      ELINVAR_4D(x, y, z, w, a, i, b, j, z, 2) ELINVAR_4D(x, y, z, w, a, i, b, j, w, 3)
#define ELINVAR_4B(x, y, z, w, a, i)                                                                                   \
  ELINVAR_4C(x, y, z, w, a, i, x, 0) ELINVAR_4C(x, y, z, w, a, i, y, 1) ELINVAR_4C(x, y, z, w, a, i, z, 2)             \
      ELINVAR_4C(x, y, z, w, a, i, w, 3)
#define ELINVAR_SWIZZLES_4(x, y, z, w)                                                                                 \
  ELINVAR_4B(x, y, z, w, x, 0) ELINVAR_4B(x, y, z, w, y, 1) ELINVAR_4B(x, y, z, w, z, 2) ELINVAR_4B(x, y, z, w, w, 3)

// ---- construction -------------------------------------------------------------------------------------------------
// How many components argument A gives a vector of T: a scalar one, a vector of the same T all of its own.
template <class T, class A, class = void> struct elinvar_gives { static constexpr int value = elinvar_kind_v<A> ? 1 : -99; };
template <class T, class A> struct elinvar_gives<T, A, metal::void_t<elinvar_vec_t<A>>> {
  static constexpr int value = metal::is_same_v<T, elinvar_element<A>> ? elinvar_shape<A>::count : -99;
};
template <class T, class A> ELINVAR_FN constexpr void elinvar_fill(T* out, int& at, const A& given) {
  if constexpr (elinvar_shape<A>::count == 0) {
    out[at++] = T(given);
  } else {
    const elinvar_vec_t<A> whole(given);
    for (int i = 0; i < elinvar_shape<A>::count; i++) out[at++] = whole.v[i];
  }
}

// NVRTC makes one wide store of an aligned struct that is copied whole, and N of a loop or of memcpy.
#ifdef ELINVAR_CUDA
template <class T, int N, int ALIGN> struct alignas(ALIGN) elinvar_parts { T v[N]; };
#define ELINVAR_ASSIGN(NAME, N)                                                                                        \
  typedef elinvar_parts<T, N, alignof(NAME)> parts;                                                                    \
  *reinterpret_cast<parts*>(this) = *reinterpret_cast<const parts*>(&other);
#else
#define ELINVAR_ASSIGN(NAME, N) \
  for (int i = 0; i < N; i++) v[i] = other.v[i];
#endif
#define ELINVAR_LAID_OUT(NAME) \
  static_assert(sizeof(NAME) == elinvar_size && alignof(NAME) == elinvar_align, "this is not Metal's layout")
#define ELINVAR_VECTOR_MEMBERS(NAME, N)                                                                                \
  NAME() = default;                                                                                                    \
  NAME(const NAME&) = default;                                                                                         \
  template <class A, class = metal::enable_if_t<elinvar_kind_v<A> != 0>> ELINVAR_FN constexpr NAME(A splat) : v{} {    \
    ELINVAR_LAID_OUT(NAME);                                                                                            \
    for (int i = 0; i < N; i++) v[i] = T(splat);                                                                       \
  }                                                                                                                    \
  template <class... A, class = metal::enable_if_t<(sizeof...(A) > 1) && (elinvar_gives<T, A>::value + ...) == N>>     \
  ELINVAR_FN constexpr NAME(const A&... parts) : v{} {                                                                 \
    ELINVAR_LAID_OUT(NAME);                                                                                            \
    int at = 0;                                                                                                        \
    (elinvar_fill(v, at, parts), ...);                                                                                 \
  }                                                                                                                    \
  template <class A, class = metal::enable_if_t<elinvar_shape<A>::count == N &&                                        \
                                                !metal::is_same_v<T, elinvar_element<A>>>, class = void>               \
  ELINVAR_FN explicit constexpr NAME(const A& other) : v{} {                                                           \
    const elinvar_vec_t<A> whole(other);                                                                               \
    for (int i = 0; i < N; i++) v[i] = T(whole.v[i]);                                                                  \
  }                                                                                                                    \
  ELINVAR_FN NAME& operator=(const NAME& other) {                                                                      \
    ELINVAR_LAID_OUT(NAME);                                                                                            \
    ELINVAR_ASSIGN(NAME, N)                                                                                            \
    return *this;                                                                                                      \
  }                                                                                                                    \
  template <class I> ELINVAR_FN constexpr T& operator[](I i) { return v[i]; }                                          \
  template <class I> ELINVAR_FN constexpr const T& operator[](I i) const { return v[i]; }

namespace metal {
#define ELINVAR_VECTOR(N, ALIGN, FIRST, SECOND, SWIZZLE_FIRST, SWIZZLE_SECOND)                                         \
  template <class T> struct alignas(ALIGN * sizeof(T)) vec<T, N> {                                                     \
    typedef T value_type;                                                                                              \
    static constexpr size_t elinvar_size = ALIGN * sizeof(T), elinvar_align = ALIGN * sizeof(T);                       \
    union {                                                                                                            \
      T v[N];                                                                                                          \
      struct { T FIRST; };                                                                                             \
      struct { T SECOND; };                                                                                            \
      SWIZZLE_FIRST SWIZZLE_SECOND                                                                                     \
    };                                                                                                                 \
    ELINVAR_VECTOR_MEMBERS(vec, N)                                                                                     \
    ELINVAR_FN constexpr vec(const packed_vec<T, N>& other) : v{} { for (int i = 0; i < N; i++) v[i] = other.v[i]; }   \
  };                                                                                                                   \
  template <class T> struct packed_vec<T, N> {                                                                         \
    typedef T value_type;                                                                                              \
    static constexpr size_t elinvar_size = N * sizeof(T), elinvar_align = alignof(T);                                  \
    union {                                                                                                            \
      T v[N];                                                                                                          \
      struct { T FIRST; };                                                                                             \
      struct { T SECOND; };                                                                                            \
      SWIZZLE_FIRST SWIZZLE_SECOND                                                                                     \
    };                                                                                                                 \
    ELINVAR_VECTOR_MEMBERS(packed_vec, N)                                                                              \
    ELINVAR_FN constexpr packed_vec(const vec<T, N>& other) : v{} { for (int i = 0; i < N; i++) v[i] = other.v[i]; }   \
  };
#define ELINVAR_LIST2(a, b) a, b
#define ELINVAR_LIST3(a, b, c) a, b, c
#define ELINVAR_LIST4(a, b, c, d) a, b, c, d
#define ELINVAR_S 2
ELINVAR_VECTOR(2, 2, ELINVAR_LIST2(x, y), ELINVAR_LIST2(r, g), ELINVAR_SWIZZLES_2(x, y), ELINVAR_SWIZZLES_2(r, g))
#undef ELINVAR_S
#define ELINVAR_S 3
ELINVAR_VECTOR(3, 4, ELINVAR_LIST3(x, y, z), ELINVAR_LIST3(r, g, b), ELINVAR_SWIZZLES_3(x, y, z),
               ELINVAR_SWIZZLES_3(r, g, b))
#undef ELINVAR_S
#define ELINVAR_S 4
ELINVAR_VECTOR(4, 4, ELINVAR_LIST4(x, y, z, w), ELINVAR_LIST4(r, g, b, a), ELINVAR_SWIZZLES_4(x, y, z, w),
               ELINVAR_SWIZZLES_4(r, g, b, a))
#undef ELINVAR_S
}  // namespace metal

#define ELINVAR_NAMES(T)                                                                                               \
  typedef vec<T, 2> T##2; typedef vec<T, 3> T##3; typedef vec<T, 4> T##4;                                              \
  typedef packed_vec<T, 2> packed_##T##2; typedef packed_vec<T, 3> packed_##T##3; typedef packed_vec<T, 4> packed_##T##4; \
  namespace metal { using elinvar_msl::T##2; using elinvar_msl::T##3; using elinvar_msl::T##4;                         \
  using elinvar_msl::packed_##T##2; using elinvar_msl::packed_##T##3; using elinvar_msl::packed_##T##4; }
ELINVAR_NAMES(bool) ELINVAR_NAMES(char) ELINVAR_NAMES(uchar) ELINVAR_NAMES(short) ELINVAR_NAMES(ushort) ELINVAR_NAMES(int)
ELINVAR_NAMES(uint) ELINVAR_NAMES(long) ELINVAR_NAMES(ulong) ELINVAR_NAMES(half) ELINVAR_NAMES(bfloat) ELINVAR_NAMES(float)
namespace metal {
using elinvar_msl::bfloat; using elinvar_msl::half; using elinvar_msl::uchar; using elinvar_msl::uint;
using elinvar_msl::ulong; using elinvar_msl::ushort; using elinvar_msl::size_t; using elinvar_msl::ptrdiff_t;
using elinvar_msl::int8_t; using elinvar_msl::int16_t; using elinvar_msl::int32_t; using elinvar_msl::int64_t;
using elinvar_msl::uint8_t; using elinvar_msl::uint16_t; using elinvar_msl::uint32_t; using elinvar_msl::uint64_t;
}  // namespace metal

// ---- operators ----------------------------------------------------------------------------------------------------
#define ELINVAR_VECTOR_OP(op)                                                                                          \
  template <class A, class B, class V = elinvar_pair<A, B>> ELINVAR_FN constexpr V operator op(const A& a, const B& b) { \
    typedef typename V::value_type T;                                                                                  \
    const V x(a), y(b);                                                                                                \
    V result(x);                                                                                                       \
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = T(x.v[i] op y.v[i]);                               \
    return result;                                                                                                     \
  }                                                                                                                    \
  template <class A, class B, class V = elinvar_vec_t<A>, class = elinvar_pair<A, B>>                                  \
  ELINVAR_FN constexpr A& operator op##=(A& a, const B& b) {                                                           \
    return a = V(a) op b;                                                                                              \
  }
#define ELINVAR_VECTOR_COMPARE(op)                                                                                     \
  template <class A, class B, class V = elinvar_pair<A, B>>                                                            \
  ELINVAR_FN constexpr vec<bool, elinvar_shape<V>::count> operator op(const A& a, const B& b) {                        \
    const V x(a), y(b);                                                                                                \
    vec<bool, elinvar_shape<V>::count> result(false);                                                                  \
    for (int i = 0; i < elinvar_shape<V>::count; i++) result.v[i] = x.v[i] op y.v[i];                                  \
    return result;                                                                                                     \
  }
namespace metal {  // where vec lives, so that argument-dependent lookup finds them from anywhere
ELINVAR_VECTOR_OP(+) ELINVAR_VECTOR_OP(-) ELINVAR_VECTOR_OP(*) ELINVAR_VECTOR_OP(/) ELINVAR_VECTOR_OP(%)
ELINVAR_VECTOR_OP(&) ELINVAR_VECTOR_OP(|) ELINVAR_VECTOR_OP(^) ELINVAR_VECTOR_OP(<<) ELINVAR_VECTOR_OP(>>)
ELINVAR_VECTOR_COMPARE(==) ELINVAR_VECTOR_COMPARE(!=) ELINVAR_VECTOR_COMPARE(<) ELINVAR_VECTOR_COMPARE(>)
ELINVAR_VECTOR_COMPARE(<=) ELINVAR_VECTOR_COMPARE(>=) ELINVAR_VECTOR_COMPARE(&&) ELINVAR_VECTOR_COMPARE(||)

#define ELINVAR_VECTOR_UNARY(op)                                                                                       \
  template <class T, int N> ELINVAR_FN constexpr vec<T, N> operator op(const vec<T, N>& a) {                           \
    vec<T, N> result(a);                                                                                               \
    for (int i = 0; i < N; i++) result.v[i] = T(op a.v[i]);                                                            \
    return result;                                                                                                     \
  }
ELINVAR_VECTOR_UNARY(+) ELINVAR_VECTOR_UNARY(-) ELINVAR_VECTOR_UNARY(~)
template <class T, int N> ELINVAR_FN constexpr vec<bool, N> operator!(const vec<T, N>& a) {
  vec<bool, N> result(false);
  for (int i = 0; i < N; i++) result.v[i] = !a.v[i];
  return result;
}
template <class T, int N> ELINVAR_FN vec<T, N>& operator++(vec<T, N>& a) { return a += T(1); }
template <class T, int N> ELINVAR_FN vec<T, N>& operator--(vec<T, N>& a) { return a -= T(1); }
template <class T, int N> ELINVAR_FN vec<T, N> operator++(vec<T, N>& a, int) { const vec<T, N> old(a); ++a; return old; }
template <class T, int N> ELINVAR_FN vec<T, N> operator--(vec<T, N>& a, int) { const vec<T, N> old(a); --a; return old; }
}  // namespace metal
}  // namespace elinvar_msl
