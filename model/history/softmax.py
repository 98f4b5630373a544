"""The loss: softmax cross entropy over the whole catalogue, without keeping a score for every (place, title).

Enters: vectors of places, vectors of titles, the right titles. Leaves: a loss that can be differentiated. Called by the
training. The scores of AT_ONCE places stay in the processor's cache; their gradient is worked out at once, in place,
and only its products with the vectors are kept.

legend: N places, V titles (0 is padding), D width
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

AT_ONCE = 64
NEVER = -1e9


class _SoftmaxLoss(Function):
    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, items_VD: Tensor, targets_N: Tensor) -> Tensor:
        items_DV = items_VD.T.contiguous()  # a fifth faster than the view
        states_grad_ND, items_grad_DV = torch.empty_like(states_ND), torch.zeros_like(items_DV)
        loss = states_ND.new_zeros(())
        scale = 1 / len(states_ND)
        for begin in range(0, len(states_ND), AT_ONCE):
            chunk = slice(begin, begin + AT_ONCE)
            states_CD, targets_C1 = states_ND[chunk], targets_N[chunk, None]
            scores_CV = states_CD @ items_DV
            scores_CV[:, 0] = NEVER
            scores_CV.sub_(scores_CV.amax(dim=1, keepdim=True))
            right_C1 = scores_CV.gather(1, targets_C1)
            sums_C1 = scores_CV.exp_().sum(dim=1, keepdim=True)
            loss += (sums_C1.log() - right_C1).sum()
            grad_CV = scores_CV.mul_(scale / sums_C1)  # softmax less one at the right title
            grad_CV.scatter_add_(1, targets_C1, torch.full_like(right_C1, -scale))
            torch.mm(grad_CV, items_VD, out=states_grad_ND[chunk])
            items_grad_DV.addmm_(states_CD.T, grad_CV)
        ctx.save_for_backward(states_grad_ND, items_grad_DV.T)
        return loss * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        states_grad_ND, items_grad_VD = ctx.saved_tensors
        return states_grad_ND * grads[0], items_grad_VD * grads[0], None


def softmax_loss(states_ND: Tensor, items_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean cross entropy of `targets_N` under softmax(states items^T), padding left out; equal to
    `torch.nn.functional.cross_entropy` (`python -m benchmarks.full_softmax` compares their speed).
    """
    loss: Tensor = _SoftmaxLoss.apply(states_ND, items_VD, targets_N)  # type: ignore[no-untyped-call]
    return loss
