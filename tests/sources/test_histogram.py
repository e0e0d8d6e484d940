from d2check.sources._histogram import class_facts


def test_the_rarest_class_is_one_that_occurs():
    assert class_facts({"car": 8000, "tram": 6, "boat": 0}) == {
        "commonest_class": "car",
        "instances_most": 8000,
        "rarest_class": "tram",
        "instances_fewest": 6,
    }


def test_one_class_has_no_balance():
    assert class_facts({"car": 10, "boat": 0}) == {}
    assert class_facts({}) == {}


def test_equal_classes_are_two_classes():
    facts = class_facts({"car": 5, "tram": 5})
    assert facts["commonest_class"] != facts["rarest_class"]
