// emulator_main.cpp - one launch in a process of its own, under AddressSanitizer.
//
// usage: program request answer. The request holds the launch and the buffers' bytes; every buffer gets a heap block of
// exactly its size, so that one byte beyond is seen. The answer holds the bytes afterwards. Layout: 64-bit words.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator_abi.h"

extern "C" int elinvar_describe(const elinvar_fault* fault, char* out, unsigned long size);

static unsigned long word(FILE* file) {
  unsigned long value = 0;
  if (fread(&value, sizeof value, 1, file) != 1) exit(71);
  return value;
}

int main(int count, char** arguments) {
  if (count != 3) return 64;
  FILE* in = fopen(arguments[1], "rb");
  if (in == nullptr) return 66;
  elinvar_launch launch = {};
  const unsigned long kernel = word(in);
  launch.fibres = unsigned(word(in)), launch.schedule = unsigned(word(in)), launch.seed = word(in);
  for (unsigned& n : launch.grid) n = unsigned(word(in));
  for (unsigned& n : launch.group) n = unsigned(word(in));
  const unsigned long regions = word(in), buffers = word(in);
  unsigned char* memory[64];
  unsigned long sizes[64];
  void* pointers[64] = {};
  if (regions > 64 || buffers > 64) return 65;
  for (unsigned long i = 0; i < regions; i++) {
    sizes[i] = word(in);
    memory[i] = (unsigned char*)malloc(sizes[i]);
    if (sizes[i] && fread(memory[i], 1, sizes[i], in) != sizes[i]) return 71;
  }
  for (unsigned long i = 0; i < buffers; i++) {
    const unsigned long index = word(in), region = word(in), offset = word(in);
    if (index < 64 && region < regions) pointers[index] = memory[region] + offset;
  }
  fclose(in);
  for (unsigned long i = 0; i < regions; i++) fprintf(stderr, "elinvar-region %lu %p %lu\n", i, (void*)memory[i], sizes[i]);
  fflush(stderr);

  launch.buffers = pointers;
  elinvar_fault fault;
  elinvar_run(&launch, elinvar_kernels[kernel].body, &fault);

  FILE* out = fopen(arguments[2], "wb");
  if (out == nullptr) return 73;
  char text[4096];
  const unsigned long length = elinvar_describe(&fault, text, sizeof text);
  fwrite(&length, sizeof length, 1, out);
  fwrite(text, 1, length, out);
  for (unsigned long i = 0; i < regions; i++) fwrite(memory[i], 1, sizes[i], out);
  fclose(out);
  return 0;
}
