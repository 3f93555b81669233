def render(text):
    return text.replace("@ANSWER@", "42")
