"""Games in the layout of ALFWorld's data set."""

import json


def published(folder, name, game, task, older_form=None):
    """A game in the layout of ALFWorld's data set, from a generated one."""
    place = folder / "json_2.1.1" / "valid_unseen" / name
    place.mkdir(parents=True)
    held = {key: game[key] for key in ("pddl_domain", "grammar", "pddl_problem", "walkthrough")} | {"solvable": True}
    if older_form:
        held["grammar"] = held["grammar"].replace(*older_form)
    (place / "game.tw-pddl").write_text(json.dumps(held))
    (place / "traj_data.json").write_text(json.dumps({"task_type": task, "pddl_params": game["pddl_params"]}))
