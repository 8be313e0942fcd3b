// What a listener hears of a tone: how much of it, and for how long it heard nothing.

export const SAMPLE_RATE = 48000;
export const FRAME_MS = 10;
export const SAMPLES = (SAMPLE_RATE * FRAME_MS) / 1000;
const PITCH = 440;
const LOUDNESS = 12000;
// Well below the tone, and above what a decoder makes up while packets are missing: it fades to silence.
const AUDIBLE = 3000;

// tone returns a function that fills frames of 16 bit samples, one after the other.
export function tone() {
  let n = 0;
  return (samples) => {
    for (let i = 0; i < samples.length; i++) {
      samples[i] = LOUDNESS * Math.sin((n++ * 2 * Math.PI * PITCH) / SAMPLE_RATE);
    }
  };
}

export const audible = (samples) => samples.some((sample) => Math.abs(sample) > AUDIBLE);

const silence = (from, to) => ({ at: new Date(from).toISOString(), ms: Math.round(to - from) });

// Listener notes the frames that arrive. Times are milliseconds since the epoch.
export class Listener {
  constructor(since, threshold) {
    this.since = since;
    this.threshold = threshold;
    this.first = undefined;
    this.last = undefined;
    this.heard = 0;
    this.silences = [];
    this.longest = { at: new Date(since).toISOString(), ms: 0 };
  }

  // frame returns the silence over the threshold that it ends, if it does.
  frame(samples, now) {
    if (!audible(samples)) return undefined;
    this.heard++;
    let ended;
    if (this.last === undefined) this.first = now;
    else ended = this.#gap(this.last, now);
    this.last = now;
    return ended;
  }

  #gap(from, to) {
    const gap = silence(from, to);
    if (gap.ms > this.longest.ms) this.longest = gap;
    if (gap.ms <= this.threshold) return undefined;
    this.silences.push(gap);
    return gap;
  }

  // result includes the silence up to the end.
  result(end) {
    this.#gap(this.last ?? this.since, end);
    return {
      frames_heard: this.heard,
      first_packet_ms: this.first === undefined ? 0 : Math.round(this.first - this.since),
      longest_silence: this.longest,
      silences: this.silences,
    };
  }
}

// Totals sums counters that begin again from zero when a connection is made anew, each time with another id.
export class Totals {
  #last = new Map();

  set(id, values) {
    this.#last.set(id, values);
  }

  sum(name) {
    let sum = 0;
    for (const values of this.#last.values()) sum += Number(values[name] ?? 0);
    return sum;
  }
}
