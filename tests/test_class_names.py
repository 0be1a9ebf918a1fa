"""Laws of `sample.py --label`: classes by name and by number."""

import dataclasses
import unicodedata

import pytest
from runs import SMALL

from commands import build, pipeline, train_request
from commands.class_labels import class_labels
from diffusion.data import FashionMnist

BREEDS = ("Persian", "Siamese", "all", "beagle", "caf\u00e9", "pug", "3", "poodle")


@pytest.fixture(scope="module")
def breeds():
    recipe = train_request.parse(SMALL).recipe
    network, params = build.abstract_network(recipe)
    made = pipeline.of_weights(recipe, network, params, recipe.mesh.make(), "a network")
    model = dataclasses.replace(made.model, num_classes=len(BREEDS))
    return dataclasses.replace(made, model=model, class_names=BREEDS)


@pytest.mark.parametrize(
    "label, classes",
    [
        ("pug", [5, 5]),
        ("4", [4, 4]),
        ("3", [6, 6]),  # the class of that name, not the fourth
        ("all", [0, 4]),  # the word is not a name
        ("2", [2, 2]),
        (unicodedata.normalize("NFD", "caf\u00e9"), [4, 4]),
    ],
)
def test_a_class_is_chosen_by_its_name_or_else_by_its_number(breeds, label, classes):
    assert class_labels(breeds, label, 2).tolist() == classes


@pytest.mark.parametrize(
    "label, says",
    [
        ("persan", r"class from 0 to 7; did you mean 'Persian'\?$"),
        ("siamese", r"did you mean 'Siamese'\?$"),
        ("zzzz", r"its classes are 'Persian', 'Siamese', .*'poodle'\.$"),
        ("8", "class from 0 to 7"),
        ("-1", "class from 0 to 7"),
    ],
)
def test_a_wrong_name_lists_those_that_are_near(breeds, label, says):
    with pytest.raises(ValueError, match=says):
        class_labels(breeds, label, 2)


def test_of_many_classes_ten_are_listed(breeds):
    names = tuple(f"breed {i:03d}" for i in range(100))
    model = dataclasses.replace(breeds.model, num_classes=100)
    many = dataclasses.replace(breeds, model=model, class_names=names)
    with pytest.raises(ValueError, match=r"'breed 008', 'breed 009', \.\.\.$"):
        class_labels(many, "zzzz", 1)


def test_fashion_mnist_names_its_classes_where_it_has_labels():
    assert len(FashionMnist().class_names) == 10
    assert FashionMnist(labelled=False).class_names is None
