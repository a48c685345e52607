"""The reader of compiled programs, on programs small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest

from rf_jax.planning import kernels
from rf_jax.planning.gpus import GPUS, REACHED_BANDWIDTH
from rf_jax.planning.hlo import Shape, parse_module
from rf_jax.planning.memory import activation_bytes
from rf_jax.planning.roofline import HOST_SECONDS, LAUNCH_SECONDS, roofline

H100 = GPUS["h100"]

TEXT = """
HloModule jit_step, is_scheduled=true

%update (p0: f32[12,4,8], p1: f32[4,8], p2: s32[]) -> f32[12,4,8] {
  %p0 = f32[12,4,8]{2,1,0} parameter(0)
  %p1 = f32[4,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %row = f32[1,4,8]{2,1,0} bitcast(%p1)
  ROOT %put = f32[12,4,8]{2,1,0} dynamic-update-slice(%p0, %row, %p2, %p2, %p2)
}

%read (q0: f32[12,4,8], q1: s32[]) -> f32[4,8] {
  %q0 = f32[12,4,8]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %slice = f32[1,4,8]{2,1,0} dynamic-slice(%q0, %q1, %q1, %q1), dynamic_slice_sizes={1,4,8}
  ROOT %flat = f32[4,8]{1,0} bitcast(%slice)
}

%gemm (g0: bf16[4,8], g1: bf16[8,16]) -> f32[4,16] {
  %g0 = bf16[4,8]{1,0} parameter(0)
  %g1 = bf16[8,16]{1,0} parameter(1)
  ROOT %dot = f32[4,16]{1,0} dot(%g0, %g1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (s32[], f32[12,4,8], bf16[8,16])) -> (s32[], f32[12,4,8], bf16[8,16]) {
  %t = (s32[], f32[12,4,8]{2,1,0}, /*index=2*/bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %stack = f32[12,4,8]{2,1,0} get-tuple-element(%t), index=1
  %w = bf16[8,16]{1,0} get-tuple-element(%t), index=2
  %x = f32[4,8]{1,0} fusion(%stack, %i), kind=kLoop, calls=%read
  %begun = ((f32[12,4,8]{2,1,0}, s32[]), f32[4,8]{1,0}, u32[]) fusion-start(%stack, %i), kind=kLoop, calls=%read
  %ended = f32[4,8]{1,0} fusion-done(%begun)
  %next = f32[12,4,8]{2,1,0} fusion(%stack, %x, %i), kind=kLoop, calls=%update
  ROOT %out = (s32[], f32[12,4,8]{2,1,0}, bf16[8,16]{1,0}) tuple(%i, %next, %w)
}

%condition (c: (s32[], f32[12,4,8], bf16[8,16])) -> pred[] {
  %c = (s32[], f32[12,4,8]{2,1,0}, bf16[8,16]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (a: bf16[4,8], w0: bf16[8,16], s: f32[12,4,8], n: s32[]) -> f32[4,16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %w0 = bf16[8,16]{1,0} parameter(1)
  %s = f32[12,4,8]{2,1,0} parameter(2)
  %n = s32[] parameter(3)
  %start = (s32[], f32[12,4,8]{2,1,0}, bf16[8,16]{1,0}) tuple(%n, %s, %w0)
  %loop = (s32[], f32[12,4,8]{2,1,0}, bf16[8,16]{1,0}) while(%start), condition=%condition, body=%body, metadata={op_name="jit(step)/jvp(f)/while"}, backend_config={"known_trip_count":{"n":"12"}}
  %kept = f32[12,4,8]{2,1,0} get-tuple-element(%loop), index=1
  %weights = bf16[8,16]{1,0} get-tuple-element(%loop), index=2
  %product = f32[4,16]{1,0} fusion(%a, %weights), kind=kCustom, calls=%gemm, metadata={op_name="jit(step)/jvp(f)/dot_general"}
  %back = f32[4,8]{1,0} fusion(%kept, %n), kind=kLoop, calls=%read, metadata={op_name="jit(step)/transpose(jvp(f))/mul"}
  %other = f32[4,16]{1,0} fusion(%a, %weights), kind=kCustom, calls=%gemm, metadata={op_name="jit(step)/transpose(jvp(f))/dot_general"}
  %summed = f32[4,16]{1,0} all-reduce-start(%product), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %done = f32[4,16]{1,0} all-reduce-done(%summed)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def module():
    return parse_module(TEXT)


def find(module, computation, name):
    found = module.computations[computation]
    return module, found, found[name]


def test_instructions_are_read(module):
    entry = module.computations[module.entry]
    assert entry["loop"].shapes == (
        Shape("s32", ()),
        Shape("f32", (12, 4, 8)),
        entry["w0"].shapes[0],
    )
    assert (entry["loop"].trip_count, entry["loop"].body) == (12, "body")
    assert entry["product"].operands == ("a", "weights") and entry["product"].called == ("gemm",)
    assert entry["product"].source == "jit(step)/jvp(f)/dot_general"
    assert entry.root.name == "done"


def test_products_and_bytes_of_a_fusion(module):
    product = find(module, "main", "product")
    assert kernels.flops(*product) == 2 * 4 * 8 * 16
    assert kernels.precision(*product) == "half"
    assert kernels.traffic(*product) == 2 * (4 * 8 + 8 * 16) + 4 * 4 * 16


def test_slices_of_a_stack_count_and_not_the_stack(module):
    row = 4 * 4 * 8
    assert kernels.traffic(*find(module, "body", "x")) == 2 * row + 4
    assert kernels.traffic(*find(module, "body", "begun")) == 2 * row + 4
    assert kernels.traffic(*find(module, "body", "next")) == 2 * row + 4


def test_a_ring_sends_almost_everything_twice(module):
    _, entry, instruction = find(module, "main", "summed")
    assert kernels.collective(instruction) == "all-reduce"
    assert kernels.sent_bytes(entry, instruction, 4) == 2 * 0.75 * 4 * 16 * 4


@pytest.mark.parametrize(
    ("groups", "size"),
    [("{}", 8), ("{{0,1},{2,3},{4,5},{6,7}}", 2), ("[2,4]<=[8]", 4), ("[4,2]<=[2,4]T(1,0)", 2)],
)
def test_gathers_send_within_their_groups(groups, size):
    """Two arrays of one gather both count, each 4 bytes a device."""
    result = f"(f32[{size}], f32[{size}])"
    text = f"""
ENTRY %main (a: f32[1], b: f32[1]) -> {result} {{
  %a = f32[1] parameter(0)
  %b = f32[1] parameter(1)
  ROOT %all = {result} all-gather(%a, %b), replica_groups={groups}, dimensions={{0}}
}}
"""
    _, entry, instruction = find(parse_module(text), "main", "all")
    assert kernels.sent_bytes(entry, instruction, 8) == (size - 1) * 8


def test_kernels_in_a_loop_run_as_often_as_it(module):
    bound = roofline(module, H100, 4)
    assert [kernel.runs for kernel in bound.kernels] == [12, 12, 12, 1, 1, 1, 1]
    assert [kernel.kind for kernel in bound.kernels] == [
        "other", "other", "other", "product", "other", "product", "collective",
    ]  # fmt: skip
    assert bound.flops == 2 * 2 * 4 * 8 * 16 and bound.unknown_loops == 0
    row = bound.kernels[0]
    memory = 12 * (2 * 4 * 4 * 8 + 4) / (REACHED_BANDWIDTH * H100.bandwidth)
    assert row.seconds == pytest.approx(memory + 12 * LAUNCH_SECONDS)


def test_loops_of_unknown_length_are_counted():
    text = TEXT.replace('backend_config={"known_trip_count":{"n":"12"}}', "")
    bound = roofline(parse_module(text), H100, 4)
    assert bound.unknown_loops == 1 and bound.kernels[0].runs == 1


def test_activations_are_what_the_backward_pass_reads(module):
    """The stack, which the loop changes; the weights pass through it unchanged."""
    assert activation_bytes(module) == 12 * 4 * 8 * 4


def test_a_conditional_waits_for_the_host_and_takes_its_longest_branch():
    text = """
%short (p: f32[8,8]) -> f32[8,8] {
  ROOT %p = f32[8,8]{1,0} parameter(0)
}

%long (q: f32[8,8]) -> f32[8,8] {
  %q = f32[8,8]{1,0} parameter(0)
  ROOT %dot = f32[8,8]{1,0} dot(%q, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[8,8], b: s32[]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %c = f32[8,8]{1,0} conditional(%b, %a, %a), branch_computations={%short, %long}
}
"""
    bound = roofline(parse_module(text), H100, 1)
    wait, product = bound.kernels
    assert (wait.kind, wait.seconds) == ("conditional", HOST_SECONDS)
    assert product.flops == 2 * 8**3
    assert product.product_seconds == pytest.approx(2 * 8**3 / H100.product_rate("tf32"))


CALLS = """
ENTRY %main (q: bf16[2,256,3,64], k: bf16[2,384,3,64], i: bf16[2,16,16,8], f: bf16[4,3,3,8], g: bf16[2,16,16,4]) -> f32[] {
  %q = bf16[2,256,3,64]{3,2,1,0} parameter(0)
  %k = bf16[2,384,3,64]{3,2,1,0} parameter(1)
  %i = bf16[2,16,16,8]{3,2,1,0} parameter(2)
  %f = bf16[4,3,3,8]{3,2,1,0} parameter(3)
  %g = bf16[2,16,16,4]{3,2,1,0} parameter(4)
  %forward = (bf16[2,3,256,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "3", "256", "384"]}}}
  %backward = (bf16[2,3,256,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmaxBackward", backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["2", "3", "256", "384"]}}}
  %flash = (bf16[2,256,3,64]{3,2,1,0}, f32[2,3,256]{2,1,0}) custom-call(%q, %k, %k), custom_call_target="mosaic_gpu_v2"
  %d_query = (bf16[2,256,3,64]{3,2,1,0}) custom-call(%q, %k, %k, %q), custom_call_target="mosaic_gpu_v2"
  %portable = (f32[2,256,3,64]{3,2,1,0}, f32[2,3,256]{2,1,0}) custom-call(%lengths, %q32, %k32, %k32), custom_call_target="__gpu$xla.gpu.triton"
  %d_key = (bf16[2,384,3,64]{3,2,1,0}, bf16[2,384,3,64]{3,2,1,0}) custom-call(%q, %k, %k, %q), custom_call_target="mosaic_gpu_v2"
  %conv = (bf16[2,16,16,4]{3,2,1,0}, u8[0]{0}) custom-call(%i, %f), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %input = (bf16[2,16,16,8]{3,2,1,0}, u8[0]{0}) custom-call(%g, %f), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %filter = (bf16[4,3,3,8]{3,2,1,0}, u8[0]{0}) custom-call(%i, %g), dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %gemm = (f32[256,384]{1,0}, s8[4]{0}) custom-call(%left, %right), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %hidden = (bf16[256,384]{1,0}, bf16[256,384]{1,0}, bf16[256,384]{1,0}) custom-call(%left, %kernel, %kernel), custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(f)/swiglu_forward/mpmd_map"}
  %d_both = bf16[256,768]{1,0} custom-call(%left, %right, %scores, %scores), custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(f)/swiglu_backward/mpmd_map"}
  %kernel = bf16[64,384]{1,0} parameter(7)
  %scores = bf16[256,384]{1,0} parameter(8)
  %left = bf16[256,64]{1,0} parameter(5)
  %right = bf16[384,64]{1,0} parameter(6)
  %lengths = s32[2]{0} parameter(7)
  %q32 = f32[2,256,3,64]{3,2,1,0} parameter(8)
  %k32 = f32[2,384,3,64]{3,2,1,0} parameter(9)
}
"""  # noqa: E501

SCORES = 2.0 * 2 * 3 * 256 * 384 * 64
"""Operations of one product of attention."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward", 2 * SCORES),
        ("backward", 5 * SCORES),
        ("flash", 2 * SCORES),
        ("portable", 2 * SCORES),
        ("d_query", 3 * SCORES),
        ("d_key", 4 * SCORES),
        *((name, 2 * (2 * 16 * 16 * 4) * (3 * 3 * 8)) for name in ("conv", "input", "filter")),
        ("gemm", 2 * 256 * 384 * 64),
        ("hidden", 2 * (2 * 256 * 384 * 64)),
        ("d_both", 2 * 256 * 384 * 64),
    ],
)
def test_operations_of_library_calls(name, expected):
    assert kernels.flops(*find(parse_module(CALLS), "main", name)) == expected


@pytest.mark.parametrize(("name", "expected"), [("flash", "half"), ("portable", "single")])
def test_flash_kernels_keep_the_type_of_the_query(name, expected):
    assert kernels.precision(*find(parse_module(CALLS), "main", name)) == expected


def test_the_text_of_this_jax_is_understood():
    """A program that was compiled for a CPU has the same form."""

    def f(x, w):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, w)[0].sum()

    x, w = jnp.ones((64, 64)), jnp.ones((5, 64, 64))
    module = parse_module(jax.jit(jax.grad(f, 1)).lower(x, w).compile().as_text())
    loops = [
        x
        for computation in module.computations.values()
        for x in computation
        if x.opcode == "while"
    ]
    assert {loop.trip_count for loop in loops} == {5}
    bound = roofline(module, H100, 1)
    assert bound.flops >= 3 * 5 * 2 * 64**3
    assert activation_bytes(module) >= 2 * 5 * 64 * 64 * 4
