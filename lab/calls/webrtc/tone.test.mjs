import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Listener, SAMPLES, Totals, audible, tone } from './tone.mjs';

const start = Date.parse('2026-01-02T03:04:05Z');
const loud = (() => {
  const samples = new Int16Array(SAMPLES);
  tone()(samples);
  return samples;
})();
const quiet = new Int16Array(SAMPLES);

test('each frame of the tone is audible, and nothing else is', () => {
  const fill = tone();
  for (let i = 0; i < 100; i++) {
    const samples = new Int16Array(SAMPLES);
    fill(samples);
    assert.ok(audible(samples), `frame ${i}`);
  }
  assert.ok(!audible(quiet));
  assert.ok(!audible(new Int16Array(SAMPLES).fill(500)));
});

test('silences in the middle and at the end', () => {
  const listener = new Listener(start, 250);
  for (let at = 100; at < 1000; at += 10) assert.equal(listener.frame(loud, start + at), undefined);
  for (let at = 1000; at < 1400; at += 10) listener.frame(quiet, start + at);
  assert.equal(listener.frame(loud, start + 1400).ms, 410);
  listener.frame(loud, start + 1600); // 200 ms are below the threshold
  assert.deepEqual(listener.result(start + 3600), {
    frames_heard: 92,
    first_packet_ms: 100,
    longest_silence: { at: '2026-01-02T03:04:06.600Z', ms: 2000 },
    silences: [
      { at: '2026-01-02T03:04:05.990Z', ms: 410 },
      { at: '2026-01-02T03:04:06.600Z', ms: 2000 },
    ],
  });
});

test('who never heard anything was in silence from the beginning on', () => {
  const listener = new Listener(start, 250);
  listener.frame(quiet, start + 10);
  const result = listener.result(start + 5000);
  assert.equal(result.frames_heard, 0);
  assert.deepEqual(result.longest_silence, { at: '2026-01-02T03:04:05.000Z', ms: 5000 });
});

test('totals add the counters of each connection', () => {
  const totals = new Totals();
  totals.set('a', { packetsReceived: 10n, packetsLost: 1n });
  totals.set('a', { packetsReceived: 20n, packetsLost: 2n });
  totals.set('b', { packetsReceived: 5n, packetsLost: 0n });
  assert.equal(totals.sum('packetsReceived'), 25);
  assert.equal(totals.sum('packetsLost'), 2);
  assert.equal(totals.sum('packetsSent'), 0);
});
