// msl_types.h - everything in Metal that does not depend on how threads run. See msl_base.h for the macros it expects.
#pragma once
#include "msl_base.h"
#include "msl_vector.h"
#include "msl_math.h"
#include "msl_matrix.h"

namespace elinvar_msl {
namespace metal {
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
ELINVAR_FN constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }
ELINVAR_FN constexpr mem_flags operator&(mem_flags a, mem_flags b) { return mem_flags(uint(a) & uint(b)); }
enum memory_order { memory_order_relaxed };

// Storage of an atomic; the functions on it are the backend's.
template <class T> struct atomic { T value; };
template <> struct atomic<bool> { uint value; };
template <class T> using _atomic = atomic<T>;
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;
}  // namespace metal
using metal::atomic_bool;
using metal::atomic_float;
using metal::atomic_int;
using metal::atomic_uint;
}  // namespace elinvar_msl
