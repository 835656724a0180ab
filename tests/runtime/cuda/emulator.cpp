// Runs the CUDA kernels of runtime/cuda on a CPU, as they stand in their sources.
//
// A thread of a thread block is a fiber that runs until it meets a barrier; when all have met it they go on. The order in
// which they run between two barriers is chosen by the caller: a kernel that lacks a barrier gives different results in
// different orders. Shared memory holds at the start of a block what the block before left in it.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

using std::isfinite;
using std::max;
using std::min;

struct Dim {
    unsigned x;
};
static Dim threadIdx, blockIdx, gridDim;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

static inline int atomicAdd(int *at, int number)
{
    const int before = *at;
    *at += number;
    return before;
}

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool waits, done;
};

static std::vector<Fiber> fibers(256);
static ucontext_t scheduler;
static int any, any_of_last;

static void wait_for_all()
{
    Fiber &own = fibers[threadIdx.x];
    own.waits = true;
    swapcontext(&own.context, &scheduler);
}

static inline void __syncthreads() { wait_for_all(); }

static inline int __syncthreads_or(int condition)
{
    any |= condition != 0;
    wait_for_all();
    return any_of_last;
}

#include "kernels.cu"

static void (*kernel)(void **);
static void **arguments;

static void run_fiber()
{
    Fiber &own = fibers[threadIdx.x];
    kernel(arguments);
    own.done = true;
    swapcontext(&own.context, &scheduler);
}

template <typename T> static T argument(void **all, int index) { return *static_cast<T *>(all[index]); }

static void run_draw(void **a) { draw(argument<const Loop *>(a, 0), argument<int>(a, 1)); }
static void run_move(void **a) { move(argument<const Loop *>(a, 0), argument<int>(a, 1), argument<int>(a, 2)); }
static void run_descend(void **a) { descend(argument<const Loop *>(a, 0), argument<int>(a, 1)); }
static void run_glide(void **a) { glide(argument<const Loop *>(a, 0), argument<int>(a, 1)); }
static void run_kick(void **a) { kick(argument<const Loop *>(a, 0), argument<int>(a, 1)); }
static void run_stride(void **a) { stride(argument<const Loop *>(a, 0), argument<int>(a, 1)); }
static void run_settle(void **a) { settle(argument<const Loop *>(a, 0)); }
static void run_measure(void **a) { measure(argument<const Loop *>(a, 0), argument<int>(a, 1)); }
static void run_advance(void **a) { advance(argument<Loop *>(a, 0), argument<int>(a, 1)); }

// Launches a kernel with parameters as cuLaunchKernel takes them. Order: 0 first thread first, 1 last first, from 2 on
// shuffled at every barrier. Returns 0; 1 for an unknown kernel, 2 where some threads end while others wait at a barrier.
extern "C" int emulate(const char *name, unsigned blocks, unsigned threads, void **parameters, unsigned order)
{
    kernel = !strcmp(name, "draw")      ? run_draw
             : !strcmp(name, "move")    ? run_move
             : !strcmp(name, "descend") ? run_descend
             : !strcmp(name, "glide")   ? run_glide
             : !strcmp(name, "kick")    ? run_kick
             : !strcmp(name, "stride")  ? run_stride
             : !strcmp(name, "settle")  ? run_settle
             : !strcmp(name, "measure") ? run_measure
             : !strcmp(name, "advance") ? run_advance
                                        : nullptr;
    if (!kernel || threads > fibers.size())
        return 1;
    arguments = parameters;
    gridDim.x = blocks;
    std::mt19937 shuffle(order);
    std::vector<unsigned> turn(threads);
    for (unsigned block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        for (unsigned i = 0; i < threads; ++i) {
            Fiber &fiber = fibers[i];
            fiber.stack.resize(1 << 15);
            fiber.done = fiber.waits = false;
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, run_fiber, 0);
            turn[i] = order == 1 ? threads - 1 - i : i;
        }
        for (bool running = true; running;) {
            if (order > 1)
                std::shuffle(turn.begin(), turn.end(), shuffle);
            any = 0;
            unsigned ended = 0;
            for (unsigned i : turn) {
                threadIdx.x = i;
                if (!fibers[i].done)
                    swapcontext(&scheduler, &fibers[i].context);
                ended += fibers[i].done;
            }
            any_of_last = any;
            if (ended != 0 && ended != threads)
                return 2;
            running = ended == 0;
        }
    }
    return 0;
}

extern "C" size_t size_of_loop() { return sizeof(Loop); }
extern "C" size_t size_of_tables() { return sizeof(Tables); }
extern "C" size_t offset_of(const char *field)
{
#define FIELD(name)                \
    if (!strcmp(field, #name))     \
        return offsetof(Loop, name);
    FIELD(position) FIELD(grad) FIELD(energy) FIELD(scale) FIELD(answer_scale) FIELD(factor) FIELD(noise) FIELD(velocity) FIELD(squares) FIELD(precondition) FIELD(free)
    FIELD(best) FIELD(best_energy) FIELD(lost) FIELD(lost_count) FIELD(told) FIELD(step_size) FIELD(sigma) FIELD(kept) FIELD(tables) FIELD(seed) FIELD(stream)
    FIELD(first_chain) FIELD(low) FIELD(high) FIELD(limit) FIELD(lowest) FIELD(highest) FIELD(highest_scale) FIELD(step) FIELD(steps) FIELD(scheduled) FIELD(learn_from) FIELD(learn_to) FIELD(rows) FIELD(size)
    FIELD(block_chains) FIELD(lanes) FIELD(clip) FIELD(bounds)
    return sizeof(Loop);
}

// The functions of one number, for comparison with numpy's.
extern "C" void philox_words(unsigned long long key0, unsigned long long key1, unsigned long long *word)
{
    philox(key0, key1, word);
}
extern "C" float confined_to(float value, int bounds, double low, double high)
{
    return confined(value, bounds, low, high);
}
extern "C" float factor_of(double squares, double limit) { return norm_factor(squares, limit); }
extern "C" void bounce_at(float *value, float *velocity, int bounds, double low, double high)
{
    bounce(*value, *velocity, bounds, low, high);
}
