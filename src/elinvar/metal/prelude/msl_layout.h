// msl_layout.h - Metal's sizes and alignments, asserted for every vector type. Instantiates them all: a precompiled
// header pays once; NVRTC may include it in a check of its own instead of in every kernel.
#pragma once
#include "msl_types.h"

namespace elinvar_msl {
#define ELINVAR_LAYOUT_OF(TYPE, SIZE, ALIGN) \
  static_assert(sizeof(TYPE) == SIZE && alignof(TYPE) == ALIGN, "Metal's layout of " #TYPE);
#define ELINVAR_LAYOUT(T, SIZE)                                                                                        \
  ELINVAR_LAYOUT_OF(T, SIZE, SIZE)                                                                                     \
  ELINVAR_LAYOUT_OF(T##2, 2 * SIZE, 2 * SIZE)                                                                          \
  ELINVAR_LAYOUT_OF(T##3, 4 * SIZE, 4 * SIZE)                                                                          \
  ELINVAR_LAYOUT_OF(T##4, 4 * SIZE, 4 * SIZE)                                                                          \
  ELINVAR_LAYOUT_OF(packed_##T##2, 2 * SIZE, SIZE)                                                                     \
  ELINVAR_LAYOUT_OF(packed_##T##3, 3 * SIZE, SIZE)                                                                     \
  ELINVAR_LAYOUT_OF(packed_##T##4, 4 * SIZE, SIZE)
ELINVAR_LAYOUT(bool, 1)
ELINVAR_LAYOUT(char, 1)
ELINVAR_LAYOUT(uchar, 1)
ELINVAR_LAYOUT(short, 2)
ELINVAR_LAYOUT(ushort, 2)
ELINVAR_LAYOUT(int, 4)
ELINVAR_LAYOUT(uint, 4)
ELINVAR_LAYOUT(long, 8)
ELINVAR_LAYOUT(ulong, 8)
ELINVAR_LAYOUT(half, 2)
ELINVAR_LAYOUT(bfloat, 2)
ELINVAR_LAYOUT(float, 4)
}  // namespace elinvar_msl
