"""Places on pages that are filled by a program, between two marks."""


def filled(text: str, mark: str, content: str) -> str:
    """A page with the place between two marks filled."""
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    if begin not in text:
        return text
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"
