"""How far a text stands out from its ground, in a browser."""

#: JavaScript to stand before a script: ``parse(css)`` gives a colour's parts, ``light(rgb)`` its
#: relative luminance, by the formula of WCAG 2.2 (1.4.3), ``ground(element)`` what it lies on.
LUMINANCE = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, n) => sum + part * [0.2126, 0.7152, 0.0722][n], 0);
const ground = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
"""
