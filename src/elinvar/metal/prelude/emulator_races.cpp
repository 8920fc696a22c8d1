// emulator_races.cpp - the race detector: a small runtime behind g++'s -fsanitize=thread instrumentation.
//
// The compiler calls __tsan_read4(address), __tsan_write4(address), ... before every access to memory that another thread
// might see. libtsan is not linked; the functions are defined here. Two accesses to one byte race when different threads
// make them, one is a write, not both are atomic, and nothing orders them:
//   - a threadgroup_barrier orders the accesses of its group to the memory its flags name (mem_none orders none);
//   - a simdgroup_barrier does so within its simdgroup; simd operations exchange registers and order no memory;
//   - nothing orders different threadgroups of one launch.
// Each watched byte remembers its last write and two reads, chosen so that a later write that races with any read so far
// races with one of the two.
#include "emulator_races.h"

#include "emulator_fibre.h"

namespace {
struct access_t {
  unsigned group, epoch, simd_epoch, pc;
  unsigned short thread;
  bool used, atomic;
};
struct byte_t {
  access_t write, read[2];
};
struct watched_t {
  unsigned long start, size;
  byte_t* bytes;
  int space;  // 0 device, 1 threadgroup
};
struct detector_t {
  watched_t watched[36];
  unsigned count, last;
  unsigned long low, high, base;
  unsigned group, thread;
  unsigned epoch[2], simd_epoch[2][ELINVAR_SIMD];
  const elinvar_launch* launch;
  bool on;
};
thread_local detector_t it;

unsigned long mapped(unsigned long bytes) { return (bytes * sizeof(byte_t) + 4095) & ~4095ul; }

void watch(unsigned long start, unsigned long size, int space) {
  void* shadow = mmap(nullptr, mapped(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (shadow == MAP_FAILED) _exit(70);
  it.watched[it.count++] = {start, size, (byte_t*)shadow, space};
  if (start < it.low) it.low = start;
  if (start + size > it.high) it.high = start + size;
}

bool ordered(const access_t& before, int space) {
  if (before.group != it.group) return space == 1;  // another group's threadgroup memory is other memory
  if (before.thread == it.thread) return true;
  if (before.epoch != it.epoch[space]) return true;
  const unsigned simd = before.thread / ELINVAR_SIMD;
  return simd == it.thread / ELINVAR_SIMD && before.simd_epoch != it.simd_epoch[space][simd];
}

elinvar_site site(const access_t& access, bool write) {
  const unsigned* size = it.launch->group;
  elinvar_site result = {};
  unsigned groups[2] = {(it.launch->grid[0] + size[0] - 1) / size[0], (it.launch->grid[1] + size[1] - 1) / size[1]};
  result.thread[0] = access.thread % size[0], result.thread[1] = access.thread / size[0] % size[1];
  result.thread[2] = access.thread / size[0] / size[1];
  result.group[0] = access.group % groups[0], result.group[1] = access.group / groups[0] % groups[1];
  result.group[2] = access.group / groups[0] / groups[1];
  result.pc = access.pc;
  result.what = access.atomic ? (write ? "atomic update" : "atomic load") : write ? "write" : "read";
  return result;
}

void check(const access_t& before, bool before_writes, const access_t& after, bool after_writes, int space, unsigned long address) {
  if (!before.used || (before.atomic && after.atomic) || ordered(before, space)) return;
  const elinvar_site first = site(before, before_writes), second = site(after, after_writes);
  it.on = false;
  elinvar_report_race(&first, &second, address);
}

void remember_read(byte_t& byte, const access_t& mine, int space) {
  access_t &a = byte.read[0], &b = byte.read[1];
  const bool same_group_a = a.group == mine.group, same_group_b = b.group == mine.group;
  const unsigned simd = mine.thread / ELINVAR_SIMD;
  if (!a.used || (same_group_a && a.thread == mine.thread) || (same_group_a && a.epoch != mine.epoch) || (space == 1 && !same_group_a)) a = mine;
  else if (!b.used || (same_group_b && b.thread == mine.thread) || (same_group_b && b.epoch != mine.epoch) || !same_group_b) b = mine;
  else if (same_group_a && a.thread / ELINVAR_SIMD == simd && b.thread / ELINVAR_SIMD != simd) a = mine;
  else b = mine;
}

void touch_byte(watched_t& range, unsigned long address, const access_t& mine, bool write) {
  byte_t& byte = range.bytes[address - range.start];
  check(byte.write, true, mine, write, range.space, address);
  if (!write) {
    remember_read(byte, mine, range.space);
    return;
  }
  check(byte.read[0], false, mine, true, range.space, address);
  check(byte.read[1], false, mine, true, range.space, address);
  byte.write = mine;
}

void touch(unsigned long address, unsigned long size, bool write, bool atomic, void* pc) {
  if (!it.on || address >= it.high || address + size <= it.low) return;
  unsigned index = it.last;
  if (address - it.watched[index].start >= it.watched[index].size) {
    for (index = 0; index < it.count; index++)
      if (address - it.watched[index].start < it.watched[index].size) break;
    if (index == it.count) return;
    it.last = index;
  }
  watched_t& range = it.watched[index];
  access_t mine;
  mine.group = it.group, mine.thread = (unsigned short)it.thread, mine.used = true, mine.atomic = atomic;
  mine.epoch = it.epoch[range.space];
  mine.simd_epoch = it.simd_epoch[range.space][it.thread / ELINVAR_SIMD];
  mine.pc = unsigned((unsigned long)pc - it.base);
  for (unsigned long i = 0; i < size && address + i < range.start + range.size; i++) touch_byte(range, address + i, mine, write);
}
}  // namespace

void elinvar_races_start(const elinvar_launch* launch, elinvar_body body, const void* memory) {
  Dl_info where;
  it.count = it.last = it.group = it.thread = 0;
  it.low = ~0ul, it.high = 0;
  it.base = dladdr((void*)body, &where) ? (unsigned long)where.dli_fbase : 0;
  it.launch = launch;
  for (unsigned i = 0; i < launch->range_count; i++) watch(launch->ranges[i].start, launch->ranges[i].size, 0);
  watch((unsigned long)memory, ELINVAR_MEMORY, 1);
  memset(it.epoch, 0, sizeof it.epoch);
  memset(it.simd_epoch, 0, sizeof it.simd_epoch);
  it.on = true;
}

void elinvar_races_finish() {
  it.on = false;
  for (unsigned i = 0; i < it.count; i++) munmap(it.watched[i].bytes, mapped(it.watched[i].size));
  it.count = 0;
}

void elinvar_races_group(const unsigned* group) {
  const unsigned* size = it.launch->group;
  const unsigned x = (it.launch->grid[0] + size[0] - 1) / size[0], y = (it.launch->grid[1] + size[1] - 1) / size[1];
  it.group = group[0] + x * (group[1] + y * group[2]);
}
void elinvar_races_thread(unsigned index, const unsigned*) { it.thread = index; }
void elinvar_races_barrier(unsigned flags) {
  for (int space = 0; space < 2; space++)
    if (flags & (1u << space)) it.epoch[space]++;
}
void elinvar_races_simd_barrier(unsigned simdgroup, unsigned flags) {
  for (int space = 0; space < 2; space++)
    if (flags & (1u << space)) it.simd_epoch[space][simdgroup]++;
}
void elinvar_races_atomic(void* where, bool writes, void* pc) { touch((unsigned long)where, 4, writes, true, pc); }

extern "C" {
#define ELINVAR_HERE __builtin_return_address(0)
#define ELINVAR_ACCESS(size)                                                                              \
  void __tsan_read##size(void* a) { touch((unsigned long)a, size, false, false, ELINVAR_HERE); }          \
  void __tsan_write##size(void* a) { touch((unsigned long)a, size, true, false, ELINVAR_HERE); }          \
  void __tsan_unaligned_read##size(void* a) { touch((unsigned long)a, size, false, false, ELINVAR_HERE); } \
  void __tsan_unaligned_write##size(void* a) { touch((unsigned long)a, size, true, false, ELINVAR_HERE); } \
  void __tsan_volatile_read##size(void* a) { touch((unsigned long)a, size, false, false, ELINVAR_HERE); }  \
  void __tsan_volatile_write##size(void* a) { touch((unsigned long)a, size, true, false, ELINVAR_HERE); }
ELINVAR_ACCESS(1)
ELINVAR_ACCESS(2)
ELINVAR_ACCESS(4)
ELINVAR_ACCESS(8)
ELINVAR_ACCESS(16)
void __tsan_read_range(void* a, unsigned long size) { touch((unsigned long)a, size, false, false, ELINVAR_HERE); }
void __tsan_write_range(void* a, unsigned long size) { touch((unsigned long)a, size, true, false, ELINVAR_HERE); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
// clang turns copies of structs into these
void* __tsan_memcpy(void* to, const void* from, unsigned long size) {
  touch((unsigned long)from, size, false, false, ELINVAR_HERE);
  touch((unsigned long)to, size, true, false, ELINVAR_HERE);
  return memcpy(to, from, size);
}
void* __tsan_memset(void* to, int value, unsigned long size) {
  touch((unsigned long)to, size, true, false, ELINVAR_HERE);
  return memset(to, value, size);
}
void* __tsan_memmove(void* to, const void* from, unsigned long size) {
  touch((unsigned long)from, size, false, false, ELINVAR_HERE);
  touch((unsigned long)to, size, true, false, ELINVAR_HERE);
  return memmove(to, from, size);
}
}
