// What moves chains of runtime/samplers/preconditioned.py, and what settles how far each number of x moves.

#define DAMPING 0.01

// Moves by gradient and noise, each number by its own share, and learns from the gradient while it is time to.
extern "C" __global__ void stride(const Loop *loop, int ahead)
{
    const int step = loop->step + ahead;
    if (step >= loop->steps)
        return;
    const unsigned numbers = loop->rows * loop->size;
    const int at = scheduled(loop, step);
    const float step_size = loop->step_size[at], sigma = loop->sigma[at];
    const bool learns = loop->learn_from <= step && step < loop->learn_to;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < numbers; i += gridDim.x * THREADS) {
        const unsigned row = i / loop->size;
        const float grad = gradient(loop, i, row), share = loop->precondition[i];
        if (learns)
            loop->squares[i] += static_cast<double>(grad) * grad;
        const float value = loop->position[i] - share * step_size * clipped(loop, grad, row);
        const float noise = loop->noise[i] * (loop->free ? loop->free[i] : 1.0f);
        loop->position[i] = confined(value + sqrtf(share) * sigma * noise, loop->bounds, loop->low, loop->high);
    }
}

// The sum over a row's threads, for each of them; all threads of the block take part.
__device__ inline double row_sum(double *sums, double own, unsigned lanes)
{
    const unsigned thread = threadIdx.x, lane = thread % lanes;
    sums[thread] = own;
    __syncthreads();
    for (unsigned reach = lanes / 2; reach > 0; reach /= 2) {
        if (lane < reach)
            sums[thread] += sums[thread + reach];
        __syncthreads();
    }
    const double sum = sums[thread - lane];
    __syncthreads();  // before the next sum writes over it
    return sum;
}

// Makes `precondition` of the squares, row by row, in thread blocks as for `measure`.
extern "C" __global__ void settle(const Loop *loop)
{
    __shared__ double sums[THREADS];
    const unsigned lanes = loop->lanes, lane = threadIdx.x % lanes;
    const unsigned row = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    const unsigned size = row < loop->rows ? loop->size : 0;
    const unsigned long long begin = static_cast<unsigned long long>(row) * size;
    const float *const free = loop->free ? loop->free + begin : nullptr;
    const double *const squares = loop->squares + begin;
    double moving = 0, sum = 0;
    for (unsigned i = lane; i < size; i += lanes) {
        if (free && !(free[i] > 0))
            continue;
        moving += 1;
        sum += squares[i];
    }
    moving = row_sum(sums, moving, lanes);
    const double least = DAMPING * (row_sum(sums, sum, lanes) / moving);
    double inverse_sum = 0;
    for (unsigned i = lane; i < size; i += lanes)
        if (!free || free[i] > 0)
            inverse_sum += squares[i] + least > 0 ? 1 / (squares[i] + least) : 1;
    const double mean = row_sum(sums, inverse_sum, lanes) / moving;
    for (unsigned i = lane; i < size; i += lanes) {
        const double inverse = squares[i] + least > 0 ? 1 / (squares[i] + least) : 1;
        loop->precondition[begin + i] = !free || free[i] > 0 ? static_cast<float>(inverse / mean) : 1.0f;
    }
}
