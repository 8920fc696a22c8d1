// emulator_abi.h - what translated kernels, the emulator's runtime and Python agree on.
#pragma once

extern "C" {
struct elinvar_thread {  // what one GPU thread knows about itself
  unsigned position_in_grid[3], position_in_group[3], group_position[3];
  unsigned grid[3], group[3], groups[3], origin[3];
  unsigned index, count;  // within its threadgroup
};
typedef void (*elinvar_body)(void** buffers, const elinvar_thread* thread);
struct elinvar_entry {
  const char* name;
  elinvar_body body;
};
extern const elinvar_entry elinvar_kernels[];  // ends with a null name

struct elinvar_range {  // memory the race detector watches
  unsigned long start, size;
};
struct elinvar_launch {
  void** buffers;
  const elinvar_range* ranges;
  unsigned range_count;
  unsigned grid[3], group[3];
  unsigned fibres;    // 1 when threads of a group wait for each other
  unsigned schedule;  // 0 forward, 1 reverse, 2 random
  unsigned long seed;
};
enum { ELINVAR_MAX_GROUP = 1024, ELINVAR_SIMD = 32, ELINVAR_LANE_BYTES = 32, ELINVAR_MEMORY = 32768 };
enum elinvar_fault_kind {
  ELINVAR_OK,
  ELINVAR_DIVERGED,    // threads wait at different places, or some have finished
  ELINVAR_RACE,        // two unordered accesses to one byte
  ELINVAR_SIGNAL,      // the processor stopped the kernel: number says which signal
  ELINVAR_TOO_LARGE,   // more than 32 KB of threadgroup memory
  ELINVAR_BAD_LANE,    // a shuffle from a lane that does not exist
  ELINVAR_STACK,       // a thread's private arrays do not fit its stack
  ELINVAR_ALONE,       // a kernel waits for other threads although nothing in its source said so
};
struct elinvar_site {  // one of the two places a fault is about
  unsigned thread[3], group[3];
  unsigned long pc;    // offset in the library, for addr2line; 0 when `file` says where
  const char* file;
  const char* what;    // "threadgroup_barrier", "write", "finished", ...
  int line;
};
struct elinvar_fault {
  int kind, number;
  unsigned long address;  // of the byte, for races and signals
  elinvar_site first, second;
};

// Runtime functions that translated kernels call.
struct elinvar_slot {
  unsigned long stamp;
  void* memory;
};
struct elinvar_lanes {  // everyone's value in one simd operation
  const unsigned char (*values)[ELINVAR_LANE_BYTES];
  unsigned lane, count;
};
void elinvar_wait(unsigned width, unsigned flags, const char* what, const char* file, int line);
elinvar_lanes elinvar_exchange(unsigned width, const void* value, unsigned bytes, const char* what, const char* file, int line);
void* elinvar_threadgroup(elinvar_slot* slot, unsigned long bytes, unsigned long align, int poison, const char* file, int line);
void elinvar_bad_lane(unsigned lane, const char* what, const char* file, int line);
unsigned elinvar_atomic(void* where, unsigned type, unsigned op, unsigned operand);
unsigned elinvar_atomic_exchange_if(void* where, unsigned* expected, unsigned desired);
unsigned elinvar_lane_index(void);
int elinvar_run(const elinvar_launch* launch, elinvar_body body, elinvar_fault* fault);
}
enum { ELINVAR_LOAD, ELINVAR_STORE, ELINVAR_SWAP, ELINVAR_ADD, ELINVAR_SUB, ELINVAR_MIN, ELINVAR_MAX, ELINVAR_AND, ELINVAR_OR, ELINVAR_XOR };
