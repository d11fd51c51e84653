"""The page's settings as lines of Python that do the same."""

from actadd_lens.play.methods import method_of
from actadd_lens.play.settings import Settings


def python_code(settings: Settings, model: str) -> str:
    """Lines of Python that write what the page writes.

    Args:
        settings: The page's settings.
        model: What the model is loaded by.
    """
    made = 'al.SteeringVector.load("vector.safetensors")'
    if settings.vector is None:
        made = method_of(settings.method).call(settings)
    made += ".row(-1)" if settings.rows == "last" else ""
    made += "" if settings.norm is None else f".with_norm({settings.norm:g})"
    prompt = repr(settings.prompt)
    if settings.chat:
        system = f", system={settings.system!r}" if settings.system else ""
        prompt = f"al.chat(model, {settings.prompt!r}{system})"
    sampling = f"temperature={settings.temperature:g}"
    sampling += f", top_p={settings.top_p:g}" if settings.temperature else ""
    return "\n".join(
        (
            "import actadd_lens as al",
            "",
            f"model = al.load_model({model!r})",
            f"vector = {made}",
            "al.complete(",
            f"    model, {prompt}, {settings.coefficient:g} * vector, position={settings.position!r},",
            f"    max_new_tokens={settings.max_new_tokens}, seed={settings.seed}, {sampling},",
            ")",
        )
    )
