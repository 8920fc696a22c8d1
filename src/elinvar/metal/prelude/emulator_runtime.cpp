// emulator_runtime.cpp - fibres, schedules, barriers, simd exchanges, atomics and faults of the Metal emulator.
//
// One processor thread runs one threadgroup at a time; every GPU thread of it is a fibre with a stack of its own that gives
// way at barriers and simd operations. The order in which fibres run is the schedule. Groups run one after the other.
#include "emulator_abi.h"
#include "emulator_fibre.h"
#include "emulator_races.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <vector>
#endif

namespace {
enum state_t : unsigned char { RUNNING, WAITING, FINISHED };
struct lane_t {
  elinvar_fibre fibre;
  elinvar_thread thread;
  state_t state;
  unsigned width;  // what it waits for: 0 the threadgroup, 32 its simdgroup, 4 its quadgroup
  unsigned flags;
  unsigned turn;  // which of the two exchange rows its next simd operation uses
  const char *what, *file;
  int line;
};
struct emulator_t {
  lane_t lanes[ELINVAR_MAX_GROUP];
  alignas(16) unsigned char exchange[2][ELINVAR_MAX_GROUP][ELINVAR_LANE_BYTES];
  alignas(64) unsigned char memory[ELINVAR_MEMORY];
  unsigned short order[ELINVAR_MAX_GROUP];
  unsigned used, current, count;
  unsigned long stamp, random;
  const elinvar_launch* launch;
  elinvar_body body;
  elinvar_fault* fault;
  elinvar_fibre home;
  sigjmp_buf escape;
#ifdef __SANITIZE_ADDRESS__
  std::vector<void*> blocks;
#endif
};
thread_local emulator_t* now = nullptr;

unsigned long next_random(unsigned long& state) {  // xorshift64*
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return state * 2685821657736338717ul;
}

elinvar_site site_of(const lane_t& lane) {
  elinvar_site site = {};
  memcpy(site.thread, lane.thread.position_in_group, sizeof site.thread);
  memcpy(site.group, lane.thread.group_position, sizeof site.group);
  site.what = lane.state == FINISHED ? "finished" : lane.what;
  site.file = lane.file;
  site.line = lane.line;
  return site;
}

// A fault ends the launch: the fibres are abandoned where they stand, nothing of theirs needs undoing.
[[noreturn]] void stop(int kind) {
  now->fault->kind = kind;
  siglongjmp(now->escape, 1);
}

void fibre_main() {
  elinvar_entered_fibre();
  for (;;) {
    lane_t& me = now->lanes[now->current];
    now->body(now->launch->buffers, &me.thread);
    me.state = FINISHED;
    elinvar_switch_fibre(me.fibre, now->home);
  }
}

void give_way(lane_t& me) {
  me.state = WAITING;
  elinvar_switch_fibre(me.fibre, now->home);
}

void set_thread(lane_t& lane, unsigned index, const unsigned* group) {
  elinvar_thread& t = lane.thread;
  const elinvar_launch& launch = *now->launch;
  t.index = index;
  t.count = now->count;
  unsigned rest = index;
  for (int d = 0; d < 3; d++) {
    t.group[d] = launch.group[d];
    t.grid[d] = launch.grid[d];
    t.groups[d] = (launch.grid[d] + launch.group[d] - 1) / launch.group[d];
    t.position_in_group[d] = rest % launch.group[d];
    rest /= launch.group[d];
    t.group_position[d] = group[d];
    t.position_in_grid[d] = group[d] * launch.group[d] + t.position_in_group[d];
  }
}

bool inside(const elinvar_thread& t) {
  return t.position_in_grid[0] < t.grid[0] && t.position_in_grid[1] < t.grid[1] && t.position_in_grid[2] < t.grid[2];
}

template <class T> void arrange(T* order, unsigned long n, unsigned schedule, unsigned long& random) {
  for (unsigned long i = 0; i < n; i++) order[i] = T(schedule == 1 ? n - 1 - i : i);
  if (schedule == 2)
    for (unsigned long i = n; i > 1; i--) {
      const unsigned long j = next_random(random) % i;
      const T held = order[i - 1];
      order[i - 1] = order[j], order[j] = held;
    }
}

// Do all lanes of [start, end) wait for the same thing at the same place?
bool together(unsigned start, unsigned end, unsigned width) {
  const lane_t& first = now->lanes[start];
  for (unsigned i = start; i < end; i++) {
    const lane_t& lane = now->lanes[i];
    if (lane.state != WAITING || lane.width != width || lane.line != first.line || strcmp(lane.file, first.file)) return false;
  }
  return true;
}

void release(unsigned start, unsigned end) {
  for (unsigned i = start; i < end; i++) now->lanes[i].state = RUNNING;
}

bool release_some(unsigned width) {
  bool any = false;
  for (unsigned start = 0; start < now->count; start += width) {
    const unsigned end = start + width < now->count ? start + width : now->count;
    if (!together(start, end, width)) continue;
    release(start, end);
    any = true;
    if (width == ELINVAR_SIMD && !strcmp(now->lanes[start].what, "simdgroup_barrier"))
      elinvar_races_simd_barrier(start / ELINVAR_SIMD, now->lanes[start].flags);
  }
  return any;
}

[[noreturn]] void diverged() {
  // Name the first thread that waits, and the first that is somewhere else among those it waits for.
  const unsigned n = now->count;
  unsigned a = 0;
  while (now->lanes[a].state != WAITING) a++;
  for (unsigned i = 0; i < n; i++)  // prefer a thread at a barrier of the whole group
    if (now->lanes[i].state == WAITING && now->lanes[i].width == 0) { a = i; break; }
  const lane_t& first = now->lanes[a];
  const unsigned width = first.width ? first.width : n, start = a / width * width;
  unsigned b = a;
  for (unsigned i = start; i < start + width && i < n && b == a; i++) {
    const lane_t& lane = now->lanes[i];
    if (lane.state == FINISHED || lane.line != first.line || lane.width != first.width || strcmp(lane.file, first.file)) b = i;
  }
  now->fault->first = site_of(first);
  now->fault->second = site_of(now->lanes[b]);
  stop(ELINVAR_DIVERGED);
}

void start_group(const unsigned* group) {
  now->stamp++;
  now->used = 0;
#ifdef __SANITIZE_ADDRESS__
  for (void* block : now->blocks) free(block);
  now->blocks.clear();
#endif
  elinvar_races_group(group);
}

void run_with_fibres(const unsigned* group) {
  const unsigned n = now->count;
  start_group(group);
  for (unsigned i = 0; i < n; i++) {
    set_thread(now->lanes[i], i, group);
    now->lanes[i].state = RUNNING;
    now->lanes[i].turn = 0;
    now->lanes[i].file = "", now->lanes[i].line = 0;
  }
  for (;;) {
    arrange(now->order, n, now->launch->schedule, now->random);
    unsigned finished = 0;
    for (unsigned k = 0; k < n; k++) {
      lane_t& lane = now->lanes[now->order[k]];
      if (lane.state == RUNNING) {
        now->current = now->order[k];
        elinvar_races_thread(now->current, lane.thread.position_in_group);
        elinvar_switch_fibre(now->home, lane.fibre);
      }
      finished += lane.state == FINISHED;
    }
    if (finished == n) return;
    const bool quads = release_some(4), simds = release_some(ELINVAR_SIMD);
    if (quads || simds) continue;
    if (!together(0, n, 0)) diverged();
    elinvar_races_barrier(now->lanes[0].flags);
    release(0, n);
  }
}

void run_directly(const unsigned* group) {
  const unsigned n = now->count;
  start_group(group);
  arrange(now->order, n, now->launch->schedule, now->random);
  for (unsigned k = 0; k < n; k++) {
    lane_t& lane = now->lanes[0];
    set_thread(lane, now->order[k], group);
    if (!inside(lane.thread)) continue;
    elinvar_races_thread(now->order[k], lane.thread.position_in_group);
    now->body(now->launch->buffers, &lane.thread);
  }
}

void run_groups() {
  const elinvar_launch& launch = *now->launch;
  unsigned long groups[3], total = 1;
  for (int d = 0; d < 3; d++) total *= groups[d] = (launch.grid[d] + launch.group[d] - 1) / launch.group[d];
  // Visiting groups in the order k * step + start, with step coprime to their number, needs no table.
  unsigned long step = 1, start = 0;
  if (launch.schedule == 2 && total > 2) {
    start = next_random(now->random) % total;
    unsigned long a, b;
    do {
      step = 1 + next_random(now->random) % (total - 1);
      for (a = step, b = total; b;) { const unsigned long r = a % b; a = b, b = r; }
    } while (a != 1);
  }
  for (unsigned long k = 0; k < total; k++) {
    unsigned long g = launch.schedule == 1 ? total - 1 - k : (unsigned long)(((unsigned __int128)k * step + start) % total);
    const unsigned group[3] = {unsigned(g % groups[0]), unsigned(g / groups[0] % groups[1]), unsigned(g / groups[0] / groups[1])};
    if (launch.fibres) run_with_fibres(group);
    else run_directly(group);
  }
}

// ---- signals: a kernel's division by zero or wild pointer must not take Python with it ----------------------------------
#ifndef __SANITIZE_ADDRESS__
// And Ctrl-C or an alarm must be able to end one that loops for ever: Python only looks at signals between its own steps.
const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGINT, SIGALRM};
const int caught_count = 6;
struct sigaction before[caught_count];
pthread_mutex_t installing = PTHREAD_MUTEX_INITIALIZER;
unsigned installed = 0;

bool interrupts(int number) { return number == SIGINT || number == SIGALRM; }

void on_signal(int number, siginfo_t* info, void* context) {
  int which = 0;
  while (caught[which] != number) which++;
  const struct sigaction& earlier = before[which];
  if (interrupts(number)) {
    // Whoever was there before hears of it (Python notes it for its next step); then the kernel is abandoned.
    if (earlier.sa_flags & SA_SIGINFO) earlier.sa_sigaction(number, info, context);
    else if (earlier.sa_handler != SIG_IGN && earlier.sa_handler != SIG_DFL) earlier.sa_handler(number);
    if (now == nullptr || (!(earlier.sa_flags & SA_SIGINFO) && earlier.sa_handler == SIG_IGN)) return;
  } else if (now == nullptr) {  // not ours: let whoever was there before have it, by meeting the fault again
    sigaction(number, &earlier, nullptr);
    return;
  }
  elinvar_fault& fault = *now->fault;
  fault.number = number;
  fault.address = (unsigned long)info->si_addr;
  lane_t& lane = now->lanes[now->launch->fibres ? now->current : 0];
  fault.first = site_of(lane);
  fault.first.pc = elinvar_offset(elinvar_program_counter(context), now->body);
  fault.first.what = "";
  const bool overflow = (number == SIGSEGV || number == SIGBUS) && now->launch->fibres && elinvar_in_guard(lane.fibre, info->si_addr);
  stop(overflow ? ELINVAR_STACK : ELINVAR_SIGNAL);
}

void catch_signals() {
  pthread_mutex_lock(&installing);
  if (installed++ == 0) {
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < caught_count; i++) sigaction(caught[i], &action, &before[i]);
  }
  pthread_mutex_unlock(&installing);
}
void release_signals() {
  pthread_mutex_lock(&installing);
  if (--installed == 0)
    for (int i = 0; i < caught_count; i++) sigaction(caught[i], &before[i], nullptr);
  pthread_mutex_unlock(&installing);
}
struct alternative_stack {  // a thread's own stack may be the one that overflowed
  static constexpr unsigned long size = 65536;
  stack_t previous = {};
  void* memory;
  alternative_stack() : memory(malloc(size)) {
    stack_t mine = {};
    mine.ss_sp = memory, mine.ss_size = size;
    sigaltstack(&mine, &previous);
  }
  ~alternative_stack() {
    sigaltstack(&previous, nullptr);
    free(memory);
  }
};
#else
void catch_signals() {}
void release_signals() {}
struct alternative_stack {
  ~alternative_stack() {}
};
#endif
}  // namespace

// ---- what translated kernels call ---------------------------------------------------------------------------------------
extern "C" {
void elinvar_wait(unsigned width, unsigned flags, const char* what, const char* file, int line) {
  lane_t& me = now->lanes[now->launch->fibres ? now->current : 0];
  me.width = width, me.flags = flags, me.what = what, me.file = file, me.line = line;
  if (!now->launch->fibres) {
    now->fault->first = site_of(me);
    stop(ELINVAR_ALONE);
  }
  give_way(me);
}

elinvar_lanes elinvar_exchange(unsigned width, const void* value, unsigned bytes, const char* what, const char* file, int line) {
  lane_t& me = now->lanes[now->launch->fibres ? now->current : 0];
  const unsigned index = me.thread.index, start = index / width * width, row = me.turn;
  memcpy(now->exchange[row][index], value, bytes);
  me.turn ^= 1;  // a lane can be at most one operation ahead of its neighbours, so two rows are enough
  elinvar_wait(width, 0, what, file, line);
  elinvar_lanes lanes;
  lanes.values = now->exchange[row] + start;
  lanes.lane = index - start;
  lanes.count = now->count - start < width ? now->count - start : width;
  return lanes;
}

void* elinvar_threadgroup(elinvar_slot* slot, unsigned long bytes, unsigned long align, int poison, const char* file, int line) {
  if (slot->stamp == now->stamp) return slot->memory;
  const unsigned long start = (now->used + align - 1) / align * align, end = start + (bytes + 15) / 16 * 16;
  if (end > ELINVAR_MEMORY) {
    lane_t& me = now->lanes[now->launch->fibres ? now->current : 0];
    now->fault->first = site_of(me);
    now->fault->first.file = file, now->fault->first.line = line;
    now->fault->number = int(end);
    stop(ELINVAR_TOO_LARGE);
  }
  now->used = unsigned(end);
  slot->stamp = now->stamp;
#ifdef __SANITIZE_ADDRESS__
  void* block = nullptr;
  if (posix_memalign(&block, align < 16 ? 16 : align, bytes)) abort();
  now->blocks.push_back(block);
  slot->memory = block;
#else
  slot->memory = now->memory + start;
#endif
  memset(slot->memory, poison, bytes);
  return slot->memory;
}

void elinvar_bad_lane(unsigned lane, const char* what, const char* file, int line) {
  lane_t& me = now->lanes[now->current];
  now->fault->first = site_of(me);
  now->fault->first.what = what, now->fault->first.file = file, now->fault->first.line = line;
  now->fault->number = int(lane);
  stop(ELINVAR_BAD_LANE);
}

unsigned elinvar_lane_index(void) { return now->lanes[now->launch->fibres ? now->current : 0].thread.index; }

unsigned elinvar_atomic(void* where, unsigned type, unsigned op, unsigned operand) {
  elinvar_races_atomic(where, op != ELINVAR_LOAD, __builtin_return_address(0));
  unsigned* word = (unsigned*)where;
  const unsigned old = *word;
  unsigned next = old;
  float a, b;
  switch (op) {
    case ELINVAR_LOAD: return old;
    case ELINVAR_STORE:
    case ELINVAR_SWAP: next = operand; break;
    case ELINVAR_ADD:
    case ELINVAR_SUB:
      if (type == 2) {
        memcpy(&a, &old, 4), memcpy(&b, &operand, 4);
        a = op == ELINVAR_ADD ? a + b : a - b;
        memcpy(&next, &a, 4);
      } else {
        next = op == ELINVAR_ADD ? old + operand : old - operand;
      }
      break;
    case ELINVAR_MIN: next = (type == 0 ? int(operand) < int(old) : operand < old) ? operand : old; break;
    case ELINVAR_MAX: next = (type == 0 ? int(operand) > int(old) : operand > old) ? operand : old; break;
    case ELINVAR_AND: next = old & operand; break;
    case ELINVAR_OR: next = old | operand; break;
    case ELINVAR_XOR: next = old ^ operand; break;
  }
  *word = next;
  return old;
}

unsigned elinvar_atomic_exchange_if(void* where, unsigned* expected, unsigned desired) {
  elinvar_races_atomic(where, true, __builtin_return_address(0));
  unsigned* word = (unsigned*)where;
  // "weak" may fail for no reason; under the random schedule it does, one time in eight.
  const bool unlucky = now->launch->schedule == 2 && next_random(now->random) % 8 == 0;
  if (*word == *expected && !unlucky) {
    *word = desired;
    return 1;
  }
  *expected = *word;
  return 0;
}

void elinvar_report_race(const elinvar_site* first, const elinvar_site* second, unsigned long address) {
  now->fault->first = *first;
  now->fault->second = *second;
  now->fault->address = address;
  stop(ELINVAR_RACE);
}

// A fault as text: "kind number address", then a line for each of the two places. Returns the length.
int elinvar_describe(const elinvar_fault* fault, char* out, unsigned long size) {
  int length = snprintf(out, size, "%d %d %lu\n", fault->kind, fault->number, fault->address);
  const elinvar_site* sites[2] = {&fault->first, &fault->second};
  for (const elinvar_site* site : sites) {
    length += snprintf(out + length, size - length, "%u %u %u %u %u %u %lu %d\t%s\t%s\n", site->thread[0], site->thread[1],
                       site->thread[2], site->group[0], site->group[1], site->group[2], site->pc, site->line,
                       site->what ? site->what : "", site->file ? site->file : "");
    if (length >= int(size)) return int(size) - 1;
  }
  return length;
}

int elinvar_run(const elinvar_launch* launch, elinvar_body body, elinvar_fault* fault) {
  static thread_local struct owner_t {  // stacks are kept for the thread's next launch
    emulator_t* it = nullptr;
    ~owner_t() {
      if (it == nullptr) return;
      for (lane_t& lane : it->lanes) elinvar_free_fibre(lane.fibre);
      delete it;
    }
  } owner;
  if (owner.it == nullptr) owner.it = new emulator_t();
  alternative_stack signals;
  emulator_t& me = *owner.it;
  memset(fault, 0, sizeof *fault);
  me.launch = launch, me.body = body, me.fault = fault;
  me.count = launch->group[0] * launch->group[1] * launch->group[2];
  me.random = (launch->seed + 1) * 0x9e3779b97f4a7c15ul | 1ul;
  now = &me;
  if (launch->fibres) {
    elinvar_home_fibre(me.home);
    for (unsigned i = 0; i < me.count; i++) elinvar_make_fibre(me.lanes[i].fibre, fibre_main);
  }
  elinvar_races_start(launch, body, me.memory);
  catch_signals();
  if (sigsetjmp(me.escape, 1) == 0) run_groups();
  release_signals();
  elinvar_races_finish();
#ifdef __SANITIZE_ADDRESS__
  for (void* block : me.blocks) free(block);
  me.blocks.clear();
#endif
  now = nullptr;
  return fault->kind;
}
}
