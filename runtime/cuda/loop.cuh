// What the kernels read and write.
//
// Everything a kernel needs stands in one `Loop` in device memory: the launches of a step are the same for every seed,
// schedule and setting, so one CUDA graph serves them all. A step's number is `Loop::step` plus the `ahead` of its launch.

#define THREADS 256
#define WORDS 8                   // 32-bit words that a thread works out at a time: one Philox counter
#define ROUND (THREADS * WORDS)

struct Loop {
    float *position;              // [rows, size], the engine's input x
    const float *grad;            // [rows, size], the engine's answer: scale * dE/dx
    const float *energy;          // [rows], the engine's answer
    float *scale;                 // [rows], the engine's input grad_scale
    float *answer_scale;          // [rows], the scale that `grad` came with
    float *factor;                // [rows], by which clipping shortens the gradient
    float *noise;                 // [rows, size], for the step to come
    float *velocity;              // [rows, size]; null where the sampler has none
    double *squares;              // [rows, size], sums of squared gradients; null where the sampler does not precondition
    float *precondition;          // [rows, size], factors of the step size; null as well
    const float *free;            // [rows, size], 1 where a number may move, else 0; null where all may
    float *best;                  // [rows, size], position of lowest energy so far; null where nobody asks
    float *best_energy;           // [rows]
    int *lost;                    // [rows], number of steps after which a chain was first not well, or -1
    int *lost_count;              // rows that have such a number
    volatile int *told;           // the same number in the host's memory
    const float *step_size;       // [scheduled]
    const float *sigma;           // [scheduled]; null where the sampler has no noise
    const float *kept;            // [scheduled], the share of a velocity that is kept; null where the sampler has none
    const Tables *tables;
    unsigned long long seed, stream;
    long long first_chain;
    double low, high;             // bounds
    double limit;                 // of clipping
    double lowest, highest;       // energy of a chain that is well
    double highest_scale;         // of the running scale; 0 where the scale stays
    int step, steps;
    int scheduled;                // numbers in a schedule; the last is that of all later steps too
    int learn_from, learn_to;     // the first step whose gradient is learned from, and the one after the last
    unsigned rows, size;          // chains here, and numbers in one
    unsigned block_chains;        // chains in a block of noise
    unsigned lanes;               // threads for one row in `measure`: a power of two, at most THREADS
    int clip, bounds;             // enum Clip, enum Bounds
};

// The place of a step in the schedules.
__device__ inline int scheduled(const Loop *loop, int step)
{
    return min(step, loop->scheduled - 1);
}
