// A sound card without a card: a thread that calls a PaStreamCallback at block rate, and counts what malloc does on it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*callback_t)(const float *, float *, uint64_t, const void *, uint64_t, void *);

static __thread long allocations;
static void *(*real_malloc)(size_t);
static void (*real_free)(void *);
static void *(*real_realloc)(void *, size_t);
static void *(*real_calloc)(size_t, size_t);
static int (*real_memalign)(void **, size_t, size_t);
static char early[65536];
static size_t early_used;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

void *malloc(size_t n) {
    if (!real_malloc) real_malloc = next("malloc");
    allocations++;
    return real_malloc(n);
}
void free(void *p) {
    if ((char *)p >= early && (char *)p < early + sizeof early) return;
    if (!real_free) real_free = next("free");
    if (p) allocations++;
    real_free(p);
}
void *realloc(void *p, size_t n) {
    if (!real_realloc) real_realloc = next("realloc");
    allocations++;
    return real_realloc(p, n);
}
void *calloc(size_t count, size_t size) {
    static __thread int inside;
    if (!real_calloc) {
        if (inside) {  // dlsym itself asks for memory
            void *p = early + early_used;
            early_used += (count * size + 63) & ~(size_t)63;
            return early_used <= sizeof early ? memset(p, 0, count * size) : NULL;
        }
        inside = 1;
        real_calloc = next("calloc");
        inside = 0;
    }
    allocations++;
    return real_calloc(count, size);
}
int posix_memalign(void **out, size_t alignment, size_t n) {
    if (!real_memalign) real_memalign = next("posix_memalign");
    allocations++;
    return real_memalign(out, alignment, n);
}
long allocations_here(void) { return allocations; }

struct run {
    callback_t callback;
    void *user;
    const float *input;
    float *output;
    uint64_t frames, channels_in, channels_out, blocks;
    int64_t period_ns;
    volatile int64_t done, late, allocations, realtime;
    int64_t *cpu_ns;  // per block: CPU time of the callback
};

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *card(void *arg) {
    struct run *r = arg;
    struct sched_param priority = {10};  // as PortAudio asks for; refused without the right
    r->realtime = pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority) == 0;
    int64_t due = now(CLOCK_MONOTONIC), before = allocations;
    for (uint64_t b = 0; b < r->blocks; b++) {
        struct timespec t = {due / 1000000000LL, due % 1000000000LL};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        int64_t start = now(CLOCK_THREAD_CPUTIME_ID);
        if (r->callback)
            r->callback(r->input + b * r->frames * r->channels_in, r->output + b * r->frames * r->channels_out, r->frames,
                        NULL, 0, r->user);
        r->cpu_ns[b] = now(CLOCK_THREAD_CPUTIME_ID) - start;
        due += r->period_ns;
        if (now(CLOCK_MONOTONIC) > due) r->late++;
        r->done = b + 1;
    }
    r->allocations = allocations - before;
    return NULL;
}

static pthread_t thread;
int start(struct run *r) { return pthread_create(&thread, NULL, card, r); }
int join(void) { return pthread_join(thread, NULL); }
