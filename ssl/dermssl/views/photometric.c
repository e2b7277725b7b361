/* The photometric changes of photometric.py, for a CPU. A block of pixels stays in the first cache while all its
   colours change, where PyTorch passes over a chunk of views once per operation. Built and called by native.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Columns of the parameters: PHOTOMETRIC in draws.py. */
enum { JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GREY, SIGMA, SOLARIZE, TURN, COLUMNS };

/* Pixels changed together; the sums of LANES of them run side by side in vector registers. */
enum { BLOCK = 1024, LANES = 16, TILE = 16 };

static float least(float a, float b) { return a < b ? a : b; }
static float most(float a, float b) { return a > b ? a : b; }
static float clip(float value) { return least(most(value, 0), 1); }
static float grey_of(float red, float green, float blue) { return 0.2989f * red + 0.587f * green + 0.114f * blue; }

/* A plane with its rows and columns exchanged, tile by tile. */
static void transpose(const uint8_t *restrict from, int size, uint8_t *restrict to) {
    for (int top = 0; top < size; top += TILE)
        for (int left = 0; left < size; left += TILE)
            for (int x = left; x < size && x < left + TILE; x++)
                for (int y = top; y < size && y < top + TILE; y++) to[x * size + y] = from[y * size + x];
}

/* The plane's rows in turn (or from the last to the first), each as it is or from right to left. */
static void flip(const uint8_t *restrict from, int size, int rows, int columns, uint8_t *restrict to) {
    for (int y = 0; y < size; y++) {
        const uint8_t *row = from + (rows ? size - 1 - y : y) * size;
        if (columns)
            for (int x = 0; x < size; x++) to[y * size + x] = row[size - 1 - x];
        else
            memcpy(to + y * size, row, size);
    }
}

/* A view's 3 planes in one of the 8 symmetries of a square, as turns() in draws.py counts them; `room` holds 4. */
static const uint8_t *turned(const uint8_t *pixels, int size, int turn, uint8_t *room) {
    /* Each is a transposition or none, and then a flip of rows, of columns, of both or of neither. */
    const int rows[8] = {0, 1, 1, 0, 0, 0, 1, 1}, columns[8] = {0, 0, 1, 1, 1, 0, 0, 1};
    int area = size * size;
    if (turn == 0) return pixels;
    for (int c = 0; c < 3; c++) {
        const uint8_t *plane = pixels + c * area;
        if (turn % 2) {
            transpose(plane, size, room + 3 * area);
            plane = room + 3 * area;
        }
        flip(plane, size, rows[turn], columns[turn], room + c * area);
    }
    return room;
}

/* n pixels of one view: colour[c] points to those of channel c. */

static void brightness(float *const colour[3], int n, float factor) {
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < n; i++) colour[c][i] = clip(colour[c][i] * factor);
}

static void contrast(float *const colour[3], int n, float factor, float mean) {
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < n; i++) colour[c][i] = clip(colour[c][i] * factor + mean * (1 - factor));
}

static void saturation(float *const colour[3], int n, float factor) {
    float *restrict red = colour[0], *restrict green = colour[1], *restrict blue = colour[2];
    for (int i = 0; i < n; i++) {
        float grey = grey_of(red[i], green[i], blue[i]) * (1 - factor);
        red[i] = clip(red[i] * factor + grey);
        green[i] = clip(green[i] * factor + grey);
        blue[i] = clip(blue[i] * factor + grey);
    }
}

/* A channel after a turn of the colour circle; hue() in photometric.py derives it. */
static float recoloured(float channel, float total, float side, float turn, float chroma, float low) {
    float distance = fabsf(fabsf(total - 2 * channel + copysignf(chroma, side) * turn) - 3 * chroma) - chroma;
    return least(most(distance, 0), chroma) + low;
}

static void hue(float *const colour[3], int n, float turns) {
    float *restrict reds = colour[0], *restrict greens = colour[1], *restrict blues = colour[2];
    float turn = 6 * turns;
    for (int i = 0; i < n; i++) {
        float red = reds[i], green = greens[i], blue = blues[i];
        float value = most(most(red, green), blue), low = least(least(red, green), blue), chroma = value - low;
        float total = red + green + blue + value - 2 * low;
        reds[i] = recoloured(red, total, green - blue, turn, chroma, low);
        greens[i] = recoloured(green, total, blue - red, turn, chroma, low);
        blues[i] = recoloured(blue, total, red - green, turn, chroma, low);
    }
}

static void turn_grey(float *const colour[3], int n) {
    float *restrict red = colour[0], *restrict green = colour[1], *restrict blue = colour[2];
    for (int i = 0; i < n; i++) red[i] = green[i] = blue[i] = grey_of(red[i], green[i], blue[i]);
}

/* The turns of `order` from `first` to before `last`; brightness 0, contrast 1, saturation 2, hue 3 as in draws.py. */
static void jitter(float *const colour[3], int n, const float *view, const int32_t *order, int first, int last,
                   float mean) {
    for (int turn = first; turn < last; turn++) {
        if (order[turn] == 0) brightness(colour, n, view[BRIGHTNESS]);
        if (order[turn] == 1) contrast(colour, n, view[CONTRAST], mean);
        if (order[turn] == 2) saturation(colour, n, view[SATURATION]);
        if (order[turn] == 3) hue(colour, n, view[HUE]);
    }
}

static float sum_of_grey(float *const colour[3], int n) {
    float lanes[LANES] = {0}, sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += grey_of(colour[0][i + k], colour[1][i + k], colour[2][i + k]);
    for (int k = 0; k < LANES; k++) sum += lanes[k];
    for (; i < n; i++) sum += grey_of(colour[0][i], colour[1][i], colour[2][i]);
    return sum;
}

/* n finished pixels, solarised where asked, normalised and with the channels of a pixel side by side. */
static void write_out(float *const colour[3], int n, const float *view, const float *scale, const float *shift,
                      float *restrict out) {
    if (view[SOLARIZE] > 0)
        for (int c = 0; c < 3; c++)
            for (int i = 0; i < n; i++) colour[c][i] = least(colour[c][i], 1 - colour[c][i]);
    for (int i = 0; i < n; i++)
        for (int c = 0; c < 3; c++) out[3 * i + c] = colour[c][i] * scale[c] - shift[c];
}

static int reflect(int at, int size) { return at < 0 ? -at : at < size ? at : 2 * (size - 1) - at; }

/* The weights of the pixels 0 to the returned radius away, cut at 4 sigma; both sides sum to 1. */
static int gaussian(float sigma, int size, float *weights) {
    int radius = (int)most(1, ceilf(4 * sigma));
    if (radius > size - 1) radius = size - 1;
    float sum = 0;
    for (int i = 0; i <= radius; i++) {
        weights[i] = expf(-0.5f * (i / sigma) * (i / sigma));
        sum += i ? 2 * weights[i] : weights[i];
    }
    for (int i = 0; i <= radius; i++) weights[i] /= sum;
    return radius;
}

/* Gaussian blur of a view (3 planes of size x size), each row written out once done; `room` is for 7 size values. */
static void blur(const float *planes, int size, const float *view, const float *scale, const float *shift, float *room,
                 float *out) {
    float *weights = room, *padded = room + size, *done = room + 4 * size;
    float *const colour[3] = {done, done + size, done + 2 * size};
    int radius = gaussian(view[SIGMA], size, weights);
    float *restrict row = padded + radius;
    for (int y = 0; y < size; y++) {
        for (int c = 0; c < 3; c++) {
            const float *plane = planes + (size_t)c * size * size, *here = plane + (size_t)y * size;
            for (int x = 0; x < size; x++) row[x] = here[x] * weights[0];
            for (int k = 1; k <= radius; k++) {
                const float *above = plane + (size_t)reflect(y - k, size) * size;
                const float *below = plane + (size_t)reflect(y + k, size) * size;
                for (int x = 0; x < size; x++) row[x] += (above[x] + below[x]) * weights[k];
            }
            for (int k = 1; k <= radius; k++) {
                row[-k] = row[k];
                row[size - 1 + k] = row[size - 1 - k];
            }
            float *restrict blurred = colour[c];
            for (int x = 0; x < size; x++) blurred[x] = row[x] * weights[0];
            for (int k = 1; k <= radius; k++)
                for (int x = 0; x < size; x++) blurred[x] += (row[x - k] + row[x + k]) * weights[k];
        }
        write_out(colour, size, view, scale, shift, out + (size_t)3 * y * size);
    }
}

static void finish_view(const uint8_t *pixels, int size, const float *view, const int32_t *order, const float *scale,
                        const float *shift, float *planes, float *out) {
    int area = size * size, contrasted = 0;
    double sum = 0;
    while (order[contrasted] != 1) contrasted++;
    for (int start = 0; start < area; start += BLOCK) {
        int n = start + BLOCK < area ? BLOCK : area - start;
        float *const colour[3] = {planes + start, planes + area + start, planes + 2 * area + start};
        for (int c = 0; c < 3; c++)
            for (int i = 0; i < n; i++) colour[c][i] = pixels[c * area + start + i] * (1 / 255.0f);
        if (view[JITTER] > 0) {
            jitter(colour, n, view, order, 0, contrasted, 0);
            sum += sum_of_grey(colour, n);
        }
    }
    for (int start = 0; start < area; start += BLOCK) {
        int n = start + BLOCK < area ? BLOCK : area - start;
        float *const colour[3] = {planes + start, planes + area + start, planes + 2 * area + start};
        if (view[JITTER] > 0) jitter(colour, n, view, order, contrasted, 4, (float)(sum / area));
        if (view[GREY] > 0) turn_grey(colour, n);
        if (view[SIGMA] <= 0) write_out(colour, n, view, scale, shift, out + (size_t)3 * start);
    }
    if (view[SIGMA] > 0) blur(planes, size, view, scale, shift, planes + 3 * area, out);
}

/* count views of size x size: (count, 3, size, size) 8-bit pixels -> (count, size, size, 3) out. `parameters` are
 * (count, COLUMNS), `orders` (24, 4), `scale` and `shift` (3). Returns 1 where memory is lacking, else 0. */
int finish(const uint8_t *pixels, const float *parameters, const int32_t *orders, const float *scale,
           const float *shift, int64_t count, int size, float *out) {
    size_t values = (size_t)3 * size * size;
    float *planes = malloc((values + 7 * size) * sizeof *planes);
    uint8_t *room = malloc((size_t)4 * size * size);
    int lacking = !planes || !room;
    for (int64_t i = 0; i < count && !lacking; i++) {
        const float *view = parameters + i * COLUMNS;
        const int32_t *order = orders + 4 * (int)view[ORDER];
        const uint8_t *upright = turned(pixels + i * values, size, (int)view[TURN], room);
        finish_view(upright, size, view, order, scale, shift, planes, out + i * values);
    }
    free(planes);
    free(room);
    return lacking;
}
