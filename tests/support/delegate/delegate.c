/* An external delegate for tests: it takes operations for real, and fails as it is told to.

   Options (tflite_plugin_create_delegate):
     take     none | some | all     none; each MAX_POOL_2D; the whole graph (default: some)
     answers  a file with what the whole graph answers: int32 rows, input bytes, output bytes, then
              the rows; an input that is not in it fails the invocation
     fault    error | crash | hang | wrong
     at       load | take | allocate | invoke: where the fault is met (wrong: always at invoke)
     when     a path: the fault is there only while this file is
     delay_us each invocation takes so much longer
     pids     a file that gets the id of each process that loads this

   The structures are those of tflite/core/c/common.h, as far as they are read; they are the same
   in tflite-runtime 2.14 and ai-edge-litert 2.3. */

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { OK = 0, ERROR = 1 };
enum { MAX_POOL_2D = 17, READ_ONLY = 1, INT8 = 9, FLOAT32 = 1 };

typedef struct {
  int size;
  int data[];
} IntArray;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  struct {
    int type;
    void *params;
  } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;

typedef struct {
  IntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
  void *delegate;
  bool might_have_side_effect;
} Node;

typedef struct Context Context;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *async_kernel;
  uint64_t inplace_operator;
} Registration;

struct Context {
  size_t tensors_size;
  int (*GetExecutionPlan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  int (*ResizeTensor)(Context *, Tensor *, IntArray *);
  void (*ReportError)(Context *, const char *, ...);
  int (*AddTensors)(Context *, int, int *);
  int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
  int (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const IntArray *, void *);
};

typedef struct {
  void *delegate;
  IntArray *nodes_to_replace, *input_tensors, *output_tensors;
} DelegateParams;

typedef struct {
  int padding, stride_width, stride_height, filter_width, filter_height;
} PoolParams;

typedef struct Delegate {
  void *data;
  int (*Prepare)(Context *, struct Delegate *);
  void *CopyFromBufferHandle, *CopyToBufferHandle, *FreeBufferHandle;
  int64_t flags;
  void *opaque_delegate_builder;
} Delegate;

typedef struct {
  Delegate delegate;
  char take[8], fault[8], at[16], when[512], answers[512];
  unsigned delay_us;
  int32_t *table; /* rows, input bytes, output bytes, rows of bytes */
} Fake;

typedef struct {
  Fake *fake;
  int input, output;
  PoolParams pool;
} Kernel;

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static bool is_faulty(const Fake *fake, const char *at) {
  return fake->fault[0] && is(fake->at, at) && (!fake->when[0] || access(fake->when, F_OK) == 0);
}

static int meet(const Fake *fake, const char *at) {
  if (!is_faulty(fake, at)) return OK;
  if (is(fake->fault, "crash")) raise(SIGSEGV);
  if (is(fake->fault, "hang"))
    for (;;) sleep(1);
  return is(fake->fault, "error") ? ERROR : OK;
}

static int pool_value(const Tensor *tensor, int at, int *value, float *real) {
  if (tensor->type == INT8) return *value = ((int8_t *)tensor->data)[at], OK;
  return *real = ((float *)tensor->data)[at], OK;
}

static int pool(const Kernel *kernel, const Tensor *in, Tensor *out) {
  const int *from = in->dims->data, *to = out->dims->data;
  for (int y = 0; y < to[1]; y++)
    for (int x = 0; x < to[2]; x++)
      for (int c = 0; c < to[3]; c++) {
        int most = INT32_MIN, value = 0;
        float most_real = -3.4e38f, real = 0;
        for (int i = 0; i < kernel->pool.filter_height; i++)
          for (int j = 0; j < kernel->pool.filter_width; j++) {
            int row = y * kernel->pool.stride_height + i, column = x * kernel->pool.stride_width + j;
            if (row >= from[1] || column >= from[2]) continue;
            pool_value(in, (row * from[2] + column) * from[3] + c, &value, &real);
            if (value > most) most = value;
            if (real > most_real) most_real = real;
          }
        int at = (y * to[2] + x) * to[3] + c;
        if (in->type == INT8)
          ((int8_t *)out->data)[at] = (int8_t)most;
        else
          ((float *)out->data)[at] = most_real;
      }
  return OK;
}

static int answer(const Fake *fake, const Tensor *in, Tensor *out) {
  if (!fake->table || (size_t)fake->table[1] != in->bytes || (size_t)fake->table[2] != out->bytes)
    return ERROR;
  const char *row = (const char *)(fake->table + 3);
  for (int i = 0; i < fake->table[0]; i++, row += in->bytes + out->bytes)
    if (memcmp(row, in->data, in->bytes) == 0)
      return memcpy(out->data, row + in->bytes, out->bytes), OK;
  return ERROR;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  (void)length;
  const DelegateParams *params = (const DelegateParams *)buffer;
  Kernel *kernel = calloc(1, sizeof *kernel);
  Node *node;
  Registration *registration;
  kernel->fake = (Fake *)params->delegate;
  for (int i = 0; i < params->input_tensors->size; i++)
    if (context->tensors[params->input_tensors->data[i]].allocation_type != READ_ONLY)
      kernel->input = params->input_tensors->data[i];
  kernel->output = params->output_tensors->data[0];
  context->GetNodeAndRegistration(context, params->nodes_to_replace->data[0], &node, &registration);
  if (registration->builtin_code == MAX_POOL_2D) kernel->pool = *(PoolParams *)node->builtin_data;
  return kernel;
}

static void kernel_free(Context *context, void *kernel) {
  (void)context;
  free(kernel);
}

static int kernel_prepare(Context *context, Node *node) {
  (void)context;
  return meet(((Kernel *)node->user_data)->fake, "allocate");
}

static int kernel_invoke(Context *context, Node *node) {
  const Kernel *kernel = node->user_data;
  const Tensor *in = context->tensors + kernel->input;
  Tensor *out = context->tensors + kernel->output;
  if (meet(kernel->fake, "invoke") != OK) return ERROR;
  if (kernel->fake->delay_us) usleep(kernel->fake->delay_us);
  int status = is(kernel->fake->take, "all") ? answer(kernel->fake, in, out) : pool(kernel, in, out);
  if (is(kernel->fake->fault, "wrong") && is_faulty(kernel->fake, "invoke"))
    for (size_t i = 0; i < out->bytes; i++) ((uint8_t *)out->data)[i] ^= 0x55;
  return status;
}

static int take(Context *context, Delegate *delegate) {
  Fake *fake = (Fake *)delegate;
  Registration kernel = {.init = kernel_init,
                         .free = kernel_free,
                         .prepare = kernel_prepare,
                         .invoke = kernel_invoke,
                         .custom_name = "FakeDelegate",
                         .version = 1};
  IntArray *plan;
  if (meet(fake, "take") != OK || context->GetExecutionPlan(context, &plan) != OK) return ERROR;
  IntArray *taken = calloc(1, sizeof *taken + sizeof(int) * (size_t)plan->size);
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) != OK) continue;
    bool is_pool = registration->builtin_code == MAX_POOL_2D;
    if (is(fake->take, "all") || (is(fake->take, "some") && is_pool))
      taken->data[taken->size++] = plan->data[i];
  }
  int status = OK;
  if (taken->size)
    status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, taken, delegate);
  free(taken);
  return status;
}

static void *load(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  size_t size = (size_t)ftell(file);
  rewind(file);
  void *data = malloc(size);
  size = fread(data, 1, size, file);
  fclose(file);
  return data;
}

static void set(Fake *fake, const char *key, const char *value) {
  if (is(key, "take")) snprintf(fake->take, sizeof fake->take, "%s", value);
  if (is(key, "fault")) snprintf(fake->fault, sizeof fake->fault, "%s", value);
  if (is(key, "at")) snprintf(fake->at, sizeof fake->at, "%s", value);
  if (is(key, "when")) snprintf(fake->when, sizeof fake->when, "%s", value);
  if (is(key, "answers")) snprintf(fake->answers, sizeof fake->answers, "%s", value);
  if (is(key, "pids")) {
    FILE *file = fopen(value, "a");
    if (file) fprintf(file, "%d\n", (int)getpid()), fclose(file);
  }
  if (is(key, "delay_us")) fake->delay_us = (unsigned)atoi(value);
}

EXPORT Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count,
                                               void (*report_error)(const char *)) {
  Fake *fake = calloc(1, sizeof *fake);
  strcpy(fake->take, "some");
  strcpy(fake->at, "invoke");
  /* Python declares the count as int: the upper half of the register is not its. */
  for (int i = 0; i < (int)count; i++) set(fake, keys[i], values[i]);
  if (meet(fake, "load") != OK) {
    report_error("told to fail at load");
    free(fake);
    return NULL;
  }
  if (fake->answers[0]) fake->table = load(fake->answers);
  fake->delegate.Prepare = take;
  return &fake->delegate;
}

EXPORT void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (delegate) free(((Fake *)delegate)->table);
  free(delegate);
}
