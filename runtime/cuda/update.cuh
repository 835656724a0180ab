// What one step does to one number and to one chain; the formulas of runtime/samplers and
// runtime/gradient_scale.py, in the same order of operations, so that each is rounded as it is there.

enum Clip { NO_CLIP = 0, CLIP_VALUE = 1, CLIP_NORM = 2 };
enum Bounds { NO_BOUNDS = 0, PROJECT = 1, REFLECT = 2 };

// A comparison with a NaN is false, so it passes both limits.
__device__ inline float limited(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value;
}

// `turned` becomes true where the number comes back flying the other way, and is left alone elsewhere.
__device__ inline float reflected(float value, double low, double high, bool &turned)
{
    const float from = static_cast<float>(low), to = static_cast<float>(high);
    if (!(value < from || value > to))
        return value;
    const double wide = high - low;
    const float width = static_cast<float>(wide), twice = static_cast<float>(2 * wide);
    const float flight = value - from;
    const float place = flight - floorf(flight / twice) * twice;
    turned |= place > width;
    return limited(static_cast<float>(low + wide) - fabsf(width - place), from, to);
}

__device__ inline float confined(float value, int bounds, double low, double high)
{
    if (bounds == PROJECT)
        return limited(value, static_cast<float>(low), static_cast<float>(high));
    bool turned = false;
    return bounds == REFLECT ? reflected(value, low, high, turned) : value;
}

// The same for a number that flies: its velocity stops at the bound where the number is projected onto it, and turns round
// where the number is reflected.
__device__ inline void bounce(float &value, float &velocity, int bounds, double low, double high)
{
    if (bounds == PROJECT && (value < static_cast<float>(low) || value > static_cast<float>(high)))
        velocity = 0;
    bool turned = false;
    value = bounds == REFLECT ? reflected(value, low, high, turned) : confined(value, bounds, low, high);
    if (turned)
        velocity = -velocity;
}

// Factor that shortens a gradient of this square sum to at most `limit`.
__device__ inline float norm_factor(double squares, double limit)
{
    const double norm = sqrt(squares);
    return norm > limit ? static_cast<float>(limit / norm) : 1.0f;
}

// `next_scale` of runtime/gradient_scale.py, from the mean square of the scaled gradient.
__device__ inline float next_scale(float scale, double mean_square, double highest)
{
    const double lowest = 0x1p-100;
    if (!isfinite(mean_square) || mean_square == 0)
        mean_square = 1;
    const double next = scale * 2.0 / sqrt(1 + 3 * mean_square);
    return static_cast<float>(next < lowest ? lowest : next > highest ? highest : next);
}
