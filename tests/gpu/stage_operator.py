"""torch.ops.dsin.patch_correlation on CUDA: the operator's own tests, on tensors of the GPU."""

from stage import Orders, Report, need_gpu, need_torch_on_gpu, run
from suite import run_tests


def work(orders: Orders, report: Report) -> None:
    if orders.rehearse:
        # The operator's way to the kernels, on the emulation.
        run_tests(
            orders,
            report,
            ["runtime/patch_correlation/test_patch_cuda.py"],
            rehearsed="batch_of_tensors and fp16",
        )
        return
    need_gpu(least_gib=2)
    need_torch_on_gpu()
    run_tests(
        orders, report, ["export/test_patch_op.py"], rehearsed="", machine="cuda", several=False
    )  # fmt: skip


if __name__ == "__main__":
    run(work)
