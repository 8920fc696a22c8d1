"""What a Metal source says: signatures, layouts, what a launch needs, what is refused and where."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import MetalSyntaxError
from elinvar.metal import parse
from elinvar.metal.signature import Signature

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"


def one(text: str, **defines: float | str) -> Signature:
    source = parse(HEAD + text, defines or None)
    (signature,) = source.kernels.values()
    return signature


def kernel(arguments: str, body: str = "", before: str = "") -> Signature:
    return one(f"{before}\nkernel void k({arguments}) {{ {body} }}\n")


# ---- arguments ------------------------------------------------------------------------------------------------------
def test_buffers_and_attributes() -> None:
    signature = kernel(
        "device const float* x [[buffer(0)]], device half4 *y [[ buffer(2) ]], constant uint &n [[buffer(1)]],"
        "uint2 at [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]]"
    )
    assert [(b.index, b.name, b.space, b.type_name, b.kind, b.is_const, b.is_reference) for b in signature.buffers] == [
        (0, "x", "device", "float", "scalar", True, False),
        (1, "n", "constant", "uint", "scalar", True, True),
        (2, "y", "device", "half4", "vector", False, False),
    ]
    assert [(a.name, a.attribute, a.scalar, a.count, a.position) for a in signature.attributes] == [
        ("at", "thread_position_in_grid", "uint", 2, 3),
        ("lane", "thread_index_in_simdgroup", "ushort", 1, 4),
    ]
    assert [a.name for a in signature.order] == ["x", "y", "n", "at", "lane"]
    assert signature.line == 4


@pytest.mark.parametrize(
    ("spelled", "name", "const", "reference"),
    [
        ("const device float* x", "float", True, False),
        ("device const float* x", "float", True, False),
        ("device float const* x", "float", True, False),
        ("constant float* x", "float", True, False),
        ("device float* const x", "float", False, False),
        ("device float * __restrict x", "float", False, False),
        ("device metal::float3* x", "float3", False, False),
        ("device vec<half, 2>* x", "half2", False, False),
        ("constant array<float, 3>& x", "array<float, 3>", True, True),
        ("device atomic<uint>* x", "atomic_uint", False, False),
        ("device atomic_int& x", "atomic_int", False, True),
        ("device packed_float3* x", "packed_float3", False, False),
        ("constant float4x4& x", "float4x4", True, True),
        ("constant float (&x)[9]", "array<float, 9>", True, True),
        ("device unsigned int* x", "uint", False, False),
        ("device uint8_t* x", "uchar", False, False),
        ("volatile device uint* x", "uint", False, False),
    ],
)
def test_every_way_to_spell_a_buffer(spelled: str, name: str, const: bool, reference: bool) -> None:
    (buffer,) = kernel(f"{spelled} [[buffer(0)]]").buffers
    assert buffer.type is not None
    assert (buffer.name, buffer.type.name, buffer.is_const, buffer.is_reference) == ("x", name, const, reference)


def test_buffers_without_an_index_are_numbered_in_order() -> None:
    signature = kernel("device float* a, device float* b [[buffer(5)]], constant int& c")
    assert [(b.name, b.index) for b in signature.buffers] == [("a", 0), ("c", 1), ("b", 5)]


def test_a_kernel_may_have_no_arguments() -> None:
    assert kernel("").order == () == kernel("void").order


def test_attribute_form_of_kernel_and_host_name() -> None:
    text = '[[kernel]] void a(device float* x [[buffer(0)]]) {}\n[[host_name("renamed")]] kernel void b() {}\n'
    assert list(parse(HEAD + text).kernels) == ["a", "renamed"]


def test_kernels_in_namespaces() -> None:
    source = parse(HEAD + "namespace deep { namespace er { kernel void k() {} } }\n")
    assert source.kernels["k"].function == "deep::er::k"


def test_templates_with_explicit_instantiations() -> None:
    source = parse(
        HEAD
        + """template <typename T, int N = 4> struct Block { T values[N]; };
template <typename T, int N>
kernel void scale(device T* x [[buffer(0)]], constant Block<T, N>& by [[buffer(1)]], uint i [[thread_position_in_grid]])
{ x[i] *= by.values[i % N]; }
template [[host_name("scale_float_2")]] kernel void scale<float, 2>(device float*, constant Block<float, 2>&, uint);
template [[host_name("scale_half_4")]] [[kernel]] decltype(scale<half, 4>) scale<half, 4>;
"""
    )
    assert list(source.kernels) == ["scale_float_2", "scale_half_4"]
    two, four = source.kernels.values()
    assert (two.function, four.function) == ("scale<float, 2>", "scale<half, 4>")
    assert [b.type.size for b in (*two.buffers, *four.buffers) if b.type] == [4, 8, 2, 8]


def test_instantiations_made_by_macros() -> None:
    source = parse(
        HEAD
        + """template <typename T> kernel void fill(device T* x [[buffer(0)]], uint i [[thread_position_in_grid]])
{ x[i] = 1; }
#define MAKE(T) template [[host_name("fill_" #T)]] kernel void fill<T>(device T*, uint);
#define MAKE_ALL(...) MAKE(float) MAKE(__VA_ARGS__)
MAKE_ALL(ushort)
"""
    )
    assert list(source.kernels) == ["fill_float", "fill_ushort"]
    assert source.kernels["fill_ushort"].buffers[0].type_name == "T"
    kind = source.kernels["fill_ushort"].buffers[0].type
    assert kind is not None
    assert kind.name == "ushort"


# ---- structs --------------------------------------------------------------------------------------------------------
def test_struct_layout_is_metals() -> None:
    source = parse(
        HEAD
        + """constant int TAPS = 3;
enum class Kind : int { a, b };
using real = float;
typedef struct { real w; packed_float3 p; } Inner;
struct Params {
    bool flag = true; float3 colour; half3 h; packed_half3 q; uchar4 c; Inner inner[2]; ushort taps[TAPS][2], last;
    float3x3 m; array<float, 3> r; ulong l; uint u;
    float weight(int i) const { return taps[i][0] * colour.x; }
    static constexpr constant int unused = 4;
};
kernel void k(constant Params& p [[buffer(0)]]) {}
"""
    )
    params = source.structs["Params"]
    assert [(f.name, f.offset) for f in params.fields] == [
        ("flag", 0),
        ("colour", 16),
        ("h", 32),
        ("q", 40),
        ("c", 48),
        ("inner", 52),
        ("taps", 84),
        ("last", 96),
        ("m", 112),
        ("r", 160),
        ("l", 176),
        ("u", 184),
    ]
    assert (params.size, params.align) == (192, 16)


def test_union_and_unknown_layouts() -> None:
    source = parse(
        HEAD + "union U { float f; ulong l; };\nstruct Bits { uint a : 3; };\nstruct alignas(32) Wide { float f; };\n"
        "kernel void k(device U* u [[buffer(0)]], device Bits* b [[buffer(1)]], device Wide* w [[buffer(2)]]) {}\n"
    )
    assert source.structs["U"].size == 8
    assert [b.kind for b in source.kernels["k"].buffers] == ["struct", "opaque", "opaque"]


# ---- what a launch needs --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "body", "needs"),
    [
        ("uint i [[thread_position_in_grid]], uint n [[threads_per_grid]]", "", (False, False, False, False)),
        ("uint i [[thread_position_in_threadgroup]]", "", (True, False, False, False)),
        ("uint i [[threadgroup_position_in_grid]]", "", (True, False, False, False)),
        ("uint i [[simdgroup_index_in_threadgroup]]", "", (True, False, False, False)),
        ("", "threadgroup float a[4];", (True, True, False, False)),
        ("", "threadgroup_barrier(mem_flags::mem_none);", (True, False, True, False)),
        ("", "float x = metal::simd_sum(1.0f);", (True, False, False, True)),
        ("", "helper();", (True, False, True, False)),
        ("", "Deep d; d.go();", (True, False, False, True)),
        ("", "// threadgroup_barrier(mem_flags::mem_none);", (False, False, False, False)),
        ("", "float simd_summary = 1;", (False, False, False, False)),
    ],
)
def test_needs(arguments: str, body: str, needs: tuple[bool, ...]) -> None:
    before = """inline void inner() { threadgroup_barrier(mem_flags::mem_none); }
inline void helper() { inner(); }
struct Deep { void go() { auto lane = simd_shuffle_xor(1.0f, 1); } };"""
    signature = kernel(arguments, body + "\n", before)
    found = (signature.needs_group, signature.uses_threadgroup, signature.uses_barrier, signature.uses_simd)
    assert found == needs


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ("threadgroup float a[32];", 128),
        ("threadgroup float a;", 16),
        ("threadgroup float3 a[TILE][TILE + 1], b[2];", 16 * 17 * 16 + 32),
        ("constexpr uint N = 8; threadgroup half a[N * 2]; threadgroup atomic_uint h[N];", 64),
        ("const int n = sizeof(float4); using T = int; threadgroup T a[n];", 64),
        ("threadgroup Pair a[3];", 32),
        ("threadgroup float* p = 0; threadgroup float4& q = *(threadgroup float4*)p;", 0),
        ("threadgroup float a[SIZE / 4];", 64),
    ],
)
def test_threadgroup_memory_is_counted(body: str, size: int) -> None:
    before = "constant constexpr int TILE = 1 << 4;\nstruct Pair { float a; half b; };"
    assert one(f"{before}\nkernel void k() {{ {body} }}\n", SIZE=64).threadgroup_bytes == size


def test_max_total_threads() -> None:
    assert one("[[max_total_threads_per_threadgroup(64 * 2)]] kernel void k() {}\n").max_threads == 128
    assert one("kernel void k [[max_total_threads_per_threadgroup(96)]] () {}\n").max_threads == 96


# ---- refusals -------------------------------------------------------------------------------------------------------
REFUSED = [
    ("texture", "kernel void k(texture2d<float> t [[texture(0)]]) {}", "texture2d"),
    ("depth texture", "kernel void k(depth2d<float> t [[texture(0)]]) {}", "depth2d"),
    ("sampler", "kernel void k(sampler s [[sampler(0)]]) {}", "sampler"),
    ("constant sampler", "constexpr sampler s(coord::normalized);\nkernel void k() {}", "sampler"),
    ("dynamic threadgroup", "kernel void k(threadgroup float* s [[threadgroup(0)]]) {}", "defines="),
    ("double", "kernel void k(device double* x [[buffer(0)]]) {}", "double"),
    ("double inside", "kernel void k() { double x = 1; }", "double"),
    ("simdgroup_event", "kernel void k() { simdgroup_event e; }", "simdgroup_event"),
    ("threadgroup atomic_float", "kernel void k() { threadgroup atomic_float s; }", "device memory only"),
    ("threadgroup atomic<float>", "kernel void k() { threadgroup metal::atomic<float> s[4]; }", "device memory only"),
    ("too much memory", "kernel void k() { threadgroup float s[8193]; }", "32784"),
    ("function constant", "constant int N [[function_constant(0)]];\nkernel void k() {}", "defines="),
    ("vertex function", "vertex void v() {}\nkernel void k() {}", "compute"),
    ("shared in a helper", "void f() { threadgroup float s[4]; }\nkernel void k() { f(); }", "in a kernel"),
    ("shared at program scope", "threadgroup float s[4];\nkernel void k() {}", "inside a kernel"),
    ("shared with a value", "kernel void k() { threadgroup float s = 1; }", "initialiser"),
    ("shared matrix", "kernel void k() { threadgroup float4x4 m; }", "columns"),
    ("no address space", "kernel void k(float* x [[buffer(0)]]) {}", "address space"),
    ("plain value", "kernel void k(float x) {}", "neither a buffer"),
    ("void pointer", "kernel void k(device void* x [[buffer(0)]]) {}", "void"),
    ("pointer to pointer", "kernel void k(device float* device* x [[buffer(0)]]) {}", "pointer to a pointer"),
    ("index twice", "kernel void k(device float* x [[buffer(1)]], device float* y [[buffer(1)]]) {}", "buffer(1)"),
    ("index too large", "kernel void k(device float* x [[buffer(31)]]) {}", "0 to 30"),
    ("signed position", "kernel void k(int i [[thread_position_in_grid]]) {}", "uint or ushort"),
    ("vector index", "kernel void k(uint2 i [[thread_index_in_threadgroup]]) {}", "uint or ushort"),
    ("unknown attribute", "kernel void k(uint i [[thread_colour]]) {}", "thread_colour"),
    (
        "position twice",
        "kernel void k(uint a [[thread_position_in_grid]], uint b [[thread_position_in_grid]]) {}",
        "twice",
    ),
    (
        "two names of one width",
        "kernel void k(uint a [[thread_execution_width]], uint b [[threads_per_simdgroup]]) {}",
        "twice",
    ),
    (
        "components differ",
        "kernel void k(uint2 a [[thread_position_in_grid]], uint3 b [[threads_per_threadgroup]]) {}",
        "components",
    ),
    ("types differ", "kernel void k(uint a [[thread_position_in_grid]], ushort b [[threads_per_grid]]) {}", "one type"),
    ("stage_in", "struct V { float x; };\nkernel void k(V v [[stage_in]]) {}", "stage_in"),
    ("two kernels of one name", "kernel void k() {}\nnamespace n { kernel void k() {} }", "two kernels"),
    ("new", "kernel void k() { int* p = new int; }", "new"),
    ("std", "kernel void k() { float x = std::sqrt(2.0f); }", "metal::"),
    ("unclosed", "kernel void k() { if (true) {", "never closed"),
    ("mismatched", "kernel void k(device float* x [[buffer(0)]) {}", "closes nothing"),
    ("unclosed comment", "kernel void k() {} /* x", "never closed"),
    ("not ASCII", "kernel void k() {} // µ", "not ASCII"),
    ("other include", "#include <vector>\nkernel void k() {}", "vector"),
    ("error directive", "#error no\nkernel void k() {}", "no"),
    ("endless #if", "#if 1\nkernel void k() {}", "#endif"),
    ("no kernel", "void f() {}", "no kernel"),
]


@pytest.mark.parametrize(("text", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refusals_name_the_line(text: str, says: str) -> None:
    with pytest.raises(MetalSyntaxError) as caught:
        parse(f"\n\n{text}\n")
    message = str(caught.value)
    assert says in message
    line = int(message.split(":")[1])
    assert line in {1, 3, 4, 5}, message
    assert message.startswith("<source>:")


def test_words_that_only_look_refused_are_fine() -> None:
    text = """struct P { float vertex; int sampler; };
kernel void k(constant P& p [[buffer(0)]]) { float fragment = p.vertex + p.sampler; }"""
    assert list(parse(HEAD + text).kernels) == ["k"]


# ---- files and defines ----------------------------------------------------------------------------------------------
def test_a_file_with_includes(tmp_path: Path) -> None:
    (tmp_path / "common.h").write_text(
        "#pragma once\nstruct P { int n; };\ninline int twice(int x) { return 2 * x; }\n"
    )
    main = tmp_path / "main.metal"
    main.write_text(
        '#include "common.h"\n#include "common.h"\nkernel void k(constant P& p [[buffer(0)]]) {}\n'
        "kernel void q(texture2d<float> t) {}\n"
    )
    with pytest.raises(MetalSyntaxError, match=r"^main\.metal:4: "):
        parse(main)
    main.write_text(main.read_text().split("kernel void q")[0])
    source = parse(str(main))
    assert source.structs["P"].size == 4
    assert source.text.count("struct P") == 1
    assert source.file == "main.metal"


def test_an_included_file_that_was_edited_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "size.h").write_text("constant int SIZE = 2;\n")
    main = tmp_path / "m.metal"
    main.write_text('#include "size.h"\nkernel void k() {}\n')
    assert "SIZE = 2" in parse(main).text
    (tmp_path / "size.h").write_text("constant int SIZE = 3;\n")
    assert "SIZE = 3" in parse(main).text


def test_errors_inside_an_include_name_it(tmp_path: Path) -> None:
    (tmp_path / "bad.h").write_text("\ndouble x;\n")
    main = tmp_path / "main.metal"
    main.write_text('#include "bad.h"\nkernel void k() {}\n')
    with pytest.raises(MetalSyntaxError, match=r"^bad\.h:2: "):
        parse(main)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MetalSyntaxError, match=r"nothing\.metal.*No such file"):
        parse(tmp_path / "nothing.metal")
    with pytest.raises(MetalSyntaxError, match="needs a file to start from"):
        parse('#include "x.h"\nkernel void k() {}\n')
    (tmp_path / "m.metal").write_text('\n#include "x.h"\nkernel void k() {}\n')
    with pytest.raises(MetalSyntaxError, match=r"m\.metal:2: .*no such file beside"):
        parse(tmp_path / "m.metal")


def test_defines_come_first_and_keep_line_numbers() -> None:
    text = "#ifndef N\n#define N 1\n#endif\nkernel void k() { threadgroup float s[N]; }\n"
    assert one(text).threadgroup_bytes == 16
    source = parse(HEAD + text, {"N": 32, "F": 0.5, "NEG": -1, "T": "half", "FLAG": True})
    assert source.kernels["k"].threadgroup_bytes == 128
    assert source.kernels["k"].line == 6
    head, rest = source.text.split("#line 1", 1)
    assert head == "#define N 32\n#define F 0.5f\n#define NEG (-1)\n#define T half\n#define FLAG 1\n"
    assert rest.split("\n", 1)[1] == HEAD + text


@pytest.mark.parametrize("defines", [{"not a name": 1}, {"": 1}, {"N": "1\n2"}])
def test_bad_defines(defines: dict[str, str | int]) -> None:
    with pytest.raises(MetalSyntaxError):
        parse(HEAD + "kernel void k() {}\n", defines)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("kernel void(){}[]<>;:,*&=\"'#\\/\n floatdevice0123"), max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(MetalSyntaxError):
        parse(text + "\n")


@pytest.mark.parametrize(
    "before",
    [
        """template <typename T> struct H { void go(T x) {} };
template <> struct H<int> { void go(int x) { simd_sum(x); } };""",
        "template <typename T> void go(T x) {}\ntemplate <> void go<int>(int x) { simd_sum(x); }",
        "namespace n { struct H { static int go(int x) { return quad_max(x); } }; }",
        "struct In { void go(int x) { threadgroup_barrier(mem_flags::mem_none); } };\nusing H = In;",
    ],
)
def test_specialisations_and_aliases_are_followed(before: str) -> None:
    assert one(f"{before}\nkernel void k() {{ H h; go(1); }}\n").needs_group


def test_operations_given_as_template_arguments_are_followed() -> None:
    source = parse(
        HEAD
        + """struct Sum { static float of(float x) { return simd_sum(x); } };
struct Twice { static float of(float x) { return 2 * x; } };
template <typename Op, typename After = Twice> kernel void apply(device float* x) { x[0] = Op::of(After::of(x[0])); }
template [[host_name("sum")]] kernel void apply<Sum>(device float*);
template [[host_name("twice")]] kernel void apply<Twice>(device float*);
template [[host_name("after")]] kernel void apply<Twice, Sum>(device float*);
template <typename Op = Sum> kernel void other(device float* x) { x[0] = Op::of(x[0]); }
template [[host_name("default")]] kernel void other<>(device float*);
"""
    )
    assert {name: k.needs_group for name, k in source.kernels.items()} == {
        "sum": True,
        "twice": False,
        "after": True,
        "default": True,
    }


def test_structs_with_pointers_are_refused() -> None:
    with pytest.raises(MetalSyntaxError, match=r"<source>:4: struct P holds a pointer"):
        kernel("constant P& p", before="struct P { device float* x; };")


def test_stated_indices_come_before_counted_ones() -> None:
    signature = kernel("device float* a, device float* b [[buffer(0)]]")
    assert [(b.name, b.index) for b in signature.buffers] == [("b", 0), ("a", 1)]


def test_a_signature_says_what_to_pass() -> None:
    text = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void f(device const float4* x, device half* y, constant uint& n, constant float* table,
                  uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {}
    kernel void g(device float* x, uint i [[thread_position_in_grid]]) {}
    """
    found = parse(text).kernels
    assert str(found["f"]) == (
        "f(device const float4* x, device half* y, constant uint& n, constant float* table); needs group_size="
    )
    assert str(found["g"]) == "g(device float* x)"
