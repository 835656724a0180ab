// Standard normals, the same ones that runtime/noise.py draws on the host with numpy.
//
// A block of chains owns a stream of 32-bit words: Philox 4x64 with 10 rounds (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011) keyed by (seed, stream), at the counters (1, block, step, 0), (2, block, step, 0), .. Each
// counter gives four 64-bit words, of which the lower half comes first.
//
// A ziggurat (Marsaglia and Tsang, "The ziggurat method for generating random variables", J. Stat. Software 2000) turns
// words into normals. Its strips, the bits that pick a strip, a sign and a place in it, and the order in which a
// rejected word asks for more are those of numpy's float32 normals; runtime/ziggurat.py makes the tables.

#define STRIPS 256
#define TAIL 3.65415288536100880f          // where the lowest strip ends and the tail begins
#define ONE_OVER_TAIL 0.27366123732975828f

struct Tables {
    unsigned inside[STRIPS];  // a place below this lies under the curve for sure
    float width[STRIPS];      // of a strip, over 2^23 places
    float height[STRIPS];     // exp(-x^2 / 2) at the strip's right end
};

struct Stream {
    unsigned long long seed, stream, block, step;
};

// Turns a counter into four random words, in place.
__device__ inline void philox(unsigned long long key0, unsigned long long key1, unsigned long long word[4])
{
    for (int round = 0; round < 10; ++round) {
        const unsigned long long m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
        const unsigned long long high0 = __umul64hi(m0, word[0]), low0 = m0 * word[0];
        const unsigned long long high1 = __umul64hi(m1, word[2]), low1 = m1 * word[2];
        word[0] = high1 ^ word[1] ^ key0;
        word[1] = low1;
        word[2] = high0 ^ word[3] ^ key1;
        word[3] = low0;
        key0 += 0x9E3779B97F4A7C15ull;  // golden ratio
        key1 += 0xBB67AE8584CAA73Bull;  // sqrt(3) - 1
    }
}

// The words of one counter, in the order in which they are used.
__device__ inline void eight_words(const Stream &from, unsigned counter, unsigned words[8])
{
    unsigned long long wide[4] = {counter + 1ull, from.block, from.step, 0};
    philox(from.seed, from.stream, wide);
    for (int i = 0; i < 4; ++i) {
        words[2 * i] = static_cast<unsigned>(wide[i]);
        words[2 * i + 1] = static_cast<unsigned>(wide[i] >> 32);
    }
}

// A part of the stream that lies in memory; what lies beyond it is worked out anew.
struct Window {
    const Stream *from;
    const unsigned *words;
    unsigned begin, end;  // places in the stream

    __device__ unsigned operator[](unsigned place) const
    {
        if (place >= begin && place < end)
            return words[place - begin];
        unsigned around[8];
        eight_words(*from, place / 8, around);
        return around[place % 8];
    }

    // Uniform on [0, 1), 24 bits.
    __device__ float uniform(unsigned place) const { return (*this)[place] / 256 * (1.0f / 16777216.0f); }

    // -log(1 - u). In double, so that it is rounded once, on every machine alike.
    __device__ float exponential(unsigned place) const
    {
        return -static_cast<float>(log1p(-static_cast<double>(uniform(place))));
    }
};

// Tries to make a normal of the word at `place` and of those that follow it, and moves `place` beyond what it used.
__device__ inline bool try_normal(const Window &words, const Tables &tables, unsigned &place, float &value)
{
    const unsigned word = words[place++];
    const unsigned strip = word & 255u, position = word >> 9;
    value = position * tables.width[strip];
    if (word & 256u)
        value = -value;
    if (position < tables.inside[strip])
        return true;
    if (strip == 0) {  // Marsaglia, "Generating a variable from the tail of the normal distribution", Technometrics 1964
        for (;;) {
            const float beyond = ONE_OVER_TAIL * words.exponential(place), other = words.exponential(place + 1);
            place += 2;
            if (other + other > beyond * beyond) {
                value = position & 256u ? -(TAIL + beyond) : TAIL + beyond;
                return true;
            }
        }
    }
    const float height =
        (tables.height[strip - 1] - tables.height[strip]) * words.uniform(place++) + tables.height[strip];
    return height < exp(-0.5 * value * value);
}
