// emulator_races.h - what the runtime tells the race detector. Nothing, unless it is compiled with ELINVAR_RACES.
#pragma once
#include "emulator_abi.h"

#ifdef ELINVAR_RACES
void elinvar_races_start(const elinvar_launch* launch, elinvar_body body, const void* memory);
void elinvar_races_finish();
void elinvar_races_group(const unsigned* group);
void elinvar_races_thread(unsigned index, const unsigned* position);
void elinvar_races_barrier(unsigned flags);
void elinvar_races_simd_barrier(unsigned simdgroup, unsigned flags);
void elinvar_races_atomic(void* where, bool writes, void* pc);
extern "C" void elinvar_report_race(const elinvar_site* first, const elinvar_site* second, unsigned long address);
#else
static inline void elinvar_races_start(const elinvar_launch*, elinvar_body, const void*) {}
static inline void elinvar_races_finish() {}
static inline void elinvar_races_group(const unsigned*) {}
static inline void elinvar_races_thread(unsigned, const unsigned*) {}
static inline void elinvar_races_barrier(unsigned) {}
static inline void elinvar_races_simd_barrier(unsigned, unsigned) {}
static inline void elinvar_races_atomic(void*, bool, void*) {}
#endif
