// Colour scales that keep their order in print and for colour-blind eyes: 33 stops each, in between by interpolation.

const STOPS = {
  viridis:
    "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e26828e23898e21918c" +
    "1f988b1fa08822a78528ae8032b67a3fbc734ec36b5ec96270cf5784d44b98d83eaddc30c2df23d8e219ece51bfde725",
  cividis:
    "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f70737676767d7c78" +
    "8482798c8878938e789b9476a39a74aba072b4a76fbcae6cc4b468cdbb63d5c25edec958e7d150f0d846f9e03afee838",
};

// [256 * 3] bytes of a scale.
export function table(name) {
  const stops = STOPS[name].match(/../g).map((pair) => parseInt(pair, 16));
  const last = stops.length / 3 - 1;
  const bytes = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i += 1) {
    const at = (i / 255) * last;
    const low = Math.min(Math.floor(at), last - 1);
    for (let c = 0; c < 3; c += 1) {
      const [a, b] = [stops[3 * low + c], stops[3 * low + 3 + c]];
      bytes[3 * i + c] = a + (b - a) * (at - low);
    }
  }
  return bytes;
}

// CSS colour of a fraction from 0 to 1; beyond the ends it is the end's.
export function css(bytes, fraction) {
  const i = 3 * Math.max(0, Math.min(255, Math.round(fraction * 255)));
  return `rgb(${bytes[i]},${bytes[i + 1]},${bytes[i + 2]})`;
}

export function gradient(name) {
  const bytes = table(name);
  const stops = Array.from({ length: 17 }, (_, i) => css(bytes, i / 16));
  return `linear-gradient(to right, ${stops.join(", ")})`;
}
