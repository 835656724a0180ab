// Steps of chains around a score graph that runs on the same GPU; loop.py launches them.
//
// Here stand the kernels that serve every sampler; those that move its chains stand in a header of the sampler's name.

#include "noise.cuh"
#include "update.cuh"
#include "loop.cuh"
#include "gradient.cuh"
#include "langevin.cuh"
#include "optimize.cuh"
#include "preconditioned.cuh"
#include "underdamped.cuh"

// Fills `noise` for a step. One thread block for each block of chains.
//
// The normals of a block come from one sequence in which a rejected word shifts all that follow. Each thread takes eight
// words and guesses that a normal begins at its first one, which is so unless the thread before reads on into them; then it
// starts over from there. The first thread's guess is always right and what is right spreads, so this ends, nearly always
// after one repetition: a word is rejected once in 80.
extern "C" __global__ void draw(const Loop *loop, int ahead)
{
    __shared__ Tables tables;
    __shared__ unsigned words[ROUND];
    __shared__ unsigned ends[THREADS], counts[THREADS];
    const int step = loop->step + ahead;
    if (step >= loop->steps || !(loop->sigma[scheduled(loop, step)] > 0))
        return;
    const unsigned thread = threadIdx.x;
    for (unsigned i = thread; i < STRIPS; i += THREADS) {
        tables.inside[i] = loop->tables->inside[i];
        tables.width[i] = loop->tables->width[i];
        tables.height[i] = loop->tables->height[i];
    }
    const long long block_chains = loop->block_chains, first = loop->first_chain;
    const long long block = first / block_chains + blockIdx.x;
    const long long origin = block * block_chains;  // the chain that the stream begins with
    const long long last = min(origin + block_chains, first + loop->rows);
    const unsigned skipped = static_cast<unsigned>(max(first - origin, 0ll)) * loop->size;
    const unsigned wanted = static_cast<unsigned>(max(last - origin, 0ll)) * loop->size;
    const long long shift = (origin - first) * loop->size;  // from places in the stream's normals to those in `noise`
    const Stream stream = {loop->seed, loop->stream, static_cast<unsigned long long>(block),
                           static_cast<unsigned long long>(step)};
    unsigned entry = 0, drawn = 0;
    for (unsigned begin = 0; drawn < wanted; begin += ROUND) {
        eight_words(stream, begin / WORDS + thread, words + thread * WORDS);
        __syncthreads();
        const Window window = {&stream, words, begin, begin + ROUND};
        const unsigned stop = begin + (thread + 1) * WORDS;
        unsigned start = thread == 0 ? entry : stop - WORDS;
        unsigned count;
        float values[WORDS];
        for (;;) {
            unsigned place = start;
            count = 0;
            while (place < stop) {
                float value;
                if (try_normal(window, tables, place, value))
                    values[count++] = value;
            }
            ends[thread] = place;
            __syncthreads();
            const unsigned right = thread == 0 ? entry : ends[thread - 1];
            const int wrong = right != start;
            start = right;
            if (!__syncthreads_or(wrong))
                break;
        }
        counts[thread] = count;
        __syncthreads();
        for (unsigned reach = 1; reach < THREADS; reach *= 2) {  // sums of the counts up to each thread
            const unsigned before = thread < reach ? 0 : counts[thread - reach];
            __syncthreads();
            counts[thread] += before;
            __syncthreads();
        }
        const unsigned number = drawn + counts[thread] - count;
        for (unsigned i = 0; i < count; ++i)
            if (number + i >= skipped && number + i < wanted)
                loop->noise[shift + number + i] = values[i];
        drawn += counts[THREADS - 1];
        entry = ends[THREADS - 1];
        __syncthreads();  // before the next round writes over what others still read
    }
}

// Looks at the engine's answer, row by row: is the chain well, how far is it clipped, which scale comes next, and is it the
// best position so far.
extern "C" __global__ void measure(const Loop *loop, int ahead)
{
    __shared__ double scaled[THREADS], plain[THREADS];
    __shared__ int better[THREADS];  // by the row's place in the block
    const unsigned thread = threadIdx.x, lanes = loop->lanes, size = loop->size;
    const unsigned row = blockIdx.x * (THREADS / lanes) + thread / lanes, lane = thread % lanes;
    const bool here = row < loop->rows;
    const float scale = here ? loop->scale[row] : 1.0f;
    double scaled_sum = 0, plain_sum = 0;
    if (here) {
        for (unsigned i = lane; i < size; i += lanes) {
            const unsigned long long at = static_cast<unsigned long long>(row) * size + i;
            const float answer = loop->grad[at];
            const double grad = answer / scale * (loop->free ? loop->free[at] : 1.0f);
            scaled_sum += static_cast<double>(answer) * answer;
            plain_sum += grad * grad;
        }
    }
    scaled[thread] = scaled_sum;
    plain[thread] = plain_sum;
    __syncthreads();
    for (unsigned reach = lanes / 2; reach > 0; reach /= 2) {
        if (lane < reach) {
            scaled[thread] += scaled[thread + reach];
            plain[thread] += plain[thread + reach];
        }
        __syncthreads();
    }
    if (here && lane == 0) {
        loop->answer_scale[row] = scale;
        if (loop->highest_scale > 0)
            loop->scale[row] = next_scale(scale, scaled[thread] / size, loop->highest_scale);
        if (loop->clip == CLIP_NORM)
            loop->factor[row] = norm_factor(plain[thread], loop->limit);
        const float energy = loop->energy[row];
        const bool outside = energy < static_cast<float>(loop->lowest) || energy > static_cast<float>(loop->highest);
        if (loop->lost[row] < 0 && (outside || !isfinite(energy) || !isfinite(plain[thread]))) {
            loop->lost[row] = loop->step + ahead;
            atomicAdd(loop->lost_count, 1);
        }
        better[thread / lanes] = loop->best && loop->lost[row] < 0 && energy < loop->best_energy[row];
        if (better[thread / lanes])
            loop->best_energy[row] = energy;
    }
    if (!loop->best)
        return;
    __syncthreads();
    if (!here || !better[thread / lanes])
        return;
    for (unsigned i = lane; i < size; i += lanes) {
        const unsigned long long at = static_cast<unsigned long long>(row) * size + i;
        loop->best[at] = loop->position[at];
    }
}

// Counts the steps of a CUDA graph once all of them are done, and tells the host how many chains are lost.
extern "C" __global__ void advance(Loop *loop, int steps)
{
    loop->step += steps;
    *loop->told = *loop->lost_count;
}
