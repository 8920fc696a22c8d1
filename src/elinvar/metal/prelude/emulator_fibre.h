// emulator_fibre.h - switching stacks: a few instructions on x86-64 and aarch64, ucontext elsewhere.
//
// ucontext would do everywhere, but it makes a system call per switch to save the signal mask: 20 times slower.
#pragma once
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) || defined(__aarch64__)
#define ELINVAR_ASSEMBLY 1
#endif

// Address space, not memory: only pages that a kernel touches become real.
static const unsigned long elinvar_stack_bytes = 256ul << 10;

struct elinvar_fibre {
  char* stack;  // the lowest page is a guard; null for the thread's own stack
#ifdef ELINVAR_ASSEMBLY
  void* pointer;
#else
  ucontext_t context;
#endif
#ifdef __SANITIZE_ADDRESS__
  void* fake;
  const void* bottom;
  unsigned long size;
#endif
};

#if defined(__x86_64__)
// void elinvar_switch_stack(void** save, void* load)
asm(R"(
.text
.p2align 4
elinvar_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
static const int elinvar_saved_words = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
elinvar_switch_stack:
  sub sp, sp, #176
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #176
  ret
)");
#endif
#ifdef ELINVAR_ASSEMBLY
extern "C" void elinvar_switch_stack(void** save, void* load) asm("elinvar_switch_stack");
#endif

static inline void elinvar_switch_fibre(elinvar_fibre& from, elinvar_fibre& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.fake, to.bottom, to.size);
#endif
#ifdef ELINVAR_ASSEMBLY
  elinvar_switch_stack(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

// The first thing to do on a new stack: tell the sanitizer where we are.
static inline void elinvar_entered_fibre() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

static inline void elinvar_home_fibre(elinvar_fibre& fibre) {
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  void* low = nullptr;
  size_t size = 0;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &low, &size);
  pthread_attr_destroy(&attributes);
  fibre.bottom = low, fibre.size = size, fibre.fake = nullptr;
#endif
  (void)fibre;
}

static inline void elinvar_make_fibre(elinvar_fibre& fibre, void (*enter)()) {
  const long page = sysconf(_SC_PAGESIZE);
  if (fibre.stack == nullptr) {
    void* memory = mmap(nullptr, elinvar_stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) _exit(70);
    mprotect(memory, page, PROT_NONE);
    fibre.stack = (char*)memory;
  }
#ifdef __SANITIZE_ADDRESS__
  fibre.bottom = fibre.stack + page, fibre.size = elinvar_stack_bytes - page, fibre.fake = nullptr;
#endif
#if defined(__x86_64__)
  void** top = (void**)(fibre.stack + elinvar_stack_bytes);
  *--top = nullptr;  // where a return address would be: keeps the stack aligned as after a call
  *--top = (void*)enter;
  for (int i = 0; i < elinvar_saved_words; i++) *--top = nullptr;
  fibre.pointer = top;
#elif defined(__aarch64__)
  char* top = fibre.stack + elinvar_stack_bytes - 176;
  memset(top, 0, 176);
  ((void**)top)[11] = (void*)enter;  // x30
  fibre.pointer = top;
#else
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack + page;
  fibre.context.uc_stack.ss_size = elinvar_stack_bytes - page;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, enter, 0);
#endif
}

static inline void elinvar_free_fibre(elinvar_fibre& fibre) {
  if (fibre.stack != nullptr) munmap(fibre.stack, elinvar_stack_bytes);
  fibre.stack = nullptr;
}

static inline bool elinvar_in_guard(const elinvar_fibre& fibre, const void* address) {
  const long page = sysconf(_SC_PAGESIZE);
  return fibre.stack != nullptr && (const char*)address >= fibre.stack - page && (const char*)address < fibre.stack + page;
}

static inline unsigned long elinvar_program_counter(void* context) {
  ucontext_t* where = (ucontext_t*)context;
#if defined(__linux__) && defined(__x86_64__)
  return (unsigned long)where->uc_mcontext.gregs[REG_RIP];
#elif defined(__linux__) && defined(__aarch64__)
  return (unsigned long)where->uc_mcontext.pc;
#else
  (void)where;
  return 0;
#endif
}

// An address as an offset in the library that holds `body`; 0 when it is elsewhere.
static inline unsigned long elinvar_offset(unsigned long address, elinvar_body body) {
  Dl_info mine, theirs;
  if (!dladdr((void*)body, &mine) || !dladdr((void*)address, &theirs)) return 0;
  return mine.dli_fbase == theirs.dli_fbase ? address - (unsigned long)mine.dli_fbase : 0;
}
