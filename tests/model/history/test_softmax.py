import torch
from torch.nn.functional import cross_entropy

from model.history.softmax import NEVER, softmax_loss


def test_the_loss_and_its_gradients_equal_those_of_the_textbook() -> None:
    torch.manual_seed(0)
    states, items = torch.randn(300, 8, requires_grad=True), torch.randn(40, 8, requires_grad=True)
    targets = torch.randint(1, 40, (300,))
    scores = states @ items.T
    scores = torch.cat([torch.full_like(scores[:, :1], NEVER), scores[:, 1:]], dim=1)
    expected = cross_entropy(scores, targets)
    expected_grads = torch.autograd.grad(3 * expected, [states, items])
    loss = softmax_loss(states, items, targets)
    grads = torch.autograd.grad(3 * loss, [states, items])
    torch.testing.assert_close(loss, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)
    assert grads[1][0].abs().sum() == 0
