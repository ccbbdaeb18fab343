"""The contracts that zoplat has for every sampler and estimator, and what is special here."""

from zoplat_example import ForwardDifference, Triangular

from zoplat.testing import EstimatorContract, SamplerContract, quadratic, train


class TestTriangular(SamplerContract):
    sampler = Triangular()


class TestForwardDifference(EstimatorContract):
    estimator = ForwardDifference()


def test_a_step_asks_one_base_and_one_loss_for_each_direction():
    answers = train(quadratic(), ForwardDifference(queries=5), steps=3)
    assert [len(step) for step in answers] == [6, 6, 6]
