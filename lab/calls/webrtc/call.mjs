// A call with libwebrtc, which is what browsers use: node call.mjs URL ROOM [SECONDS]
//
// One participant publishes a tone, the other listens. LIVEKIT_API_KEY and LIVEKIT_API_SECRET are in the environment. It ends after
// SECONDS, or on SIGTERM, and writes the result and the events in the shape that `call` has (measure/result.go). Packets are what
// libwebrtc counts by their sequence numbers; what is lost while it reconnects has none, and shows as silence. Frames are 10 ms of
// sound.
//
// SSL_CERT_FILE makes it trust a custom certificate authority for wss. It does not for TURN over TLS: there libwebrtc trusts the
// authorities that it was built with, and the join fails after 30 seconds.
import { AccessToken } from 'livekit-server-sdk';

import { Listener, SAMPLES, SAMPLE_RATE, Totals, tone } from './tone.mjs';

// Its logger writes to what standard output is when it is loaded. That is for the result alone.
process.env.NODE_ENV ??= 'production';
Object.defineProperty(process.stdout, 'fd', { value: process.stderr.fd });
const { AudioFrame, AudioSource, AudioStream, DisconnectReason, LocalAudioTrack, Room, RoomEvent, TrackPublishOptions, TrackSource } =
  await import('@livekit/rtc-node');

const SILENCE_MS = 250;
const LATE_MS = 8000;
const STATS_MS = 500;
const LEAVE_MS = 2000;

const [url, room, seconds] = process.argv.slice(2);
const { LIVEKIT_API_KEY: key, LIVEKIT_API_SECRET: secret } = process.env;
if (!url || !room || !key || !secret) {
  console.error('usage: LIVEKIT_API_KEY=… LIVEKIT_API_SECRET=… node call.mjs URL ROOM [SECONDS]');
  process.exit(2);
}

const result = {
  started: new Date().toISOString(),
  joins: { tried: 0, failed: 0, median_ms: 0, longest_ms: 0, failures: [] },
  short_calls: { tried: 0, failed: 0, median_ms: 0, longest_ms: 0, failures: [] },
  stalls: [],
};

const event = (name, fields = {}) => {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), event: name, room, ...fields })}\n`);
};

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Party {
  constructor(identity) {
    this.identity = identity;
    this.room = new Room();
    this.interruptions = [];
    this.totals = new Totals();
    this.pairs = {};
    this.leaving = false;
    this.room.on(RoomEvent.Reconnecting, () => {
      this.interrupted = Date.now();
      event('reconnecting', { party: identity });
    });
    this.room.on(RoomEvent.Reconnected, () => {
      const ms = Date.now() - this.interrupted;
      this.interruptions.push({ at: new Date(this.interrupted).toISOString(), ms });
      this.interrupted = undefined;
      event('reconnected', { party: identity, ms });
    });
    this.room.on(RoomEvent.Disconnected, (reason) => {
      if (this.leaving) return;
      this.disconnected = { at: new Date().toISOString(), reason: DisconnectReason[reason] ?? String(reason) };
      event('disconnected', { party: identity, error: this.disconnected.reason });
    });
  }

  async join() {
    const token = new AccessToken(key, secret, { identity: this.identity });
    token.addGrant({ roomJoin: true, room });
    const began = Date.now();
    result.joins.tried++;
    try {
      await this.room.connect(url, await token.toJwt(), { autoSubscribe: true, dynacast: false });
    } catch (error) {
      const failure = { at: new Date(began).toISOString(), room, step: 'join', error: String(error), ms: Date.now() - began };
      result.joins.failed++;
      result.joins.failures.push(failure);
      event('failed', { party: this.identity, step: 'join', error: failure.error, ms: failure.ms });
      return false;
    }
    this.joinMs = Date.now() - began;
    event('joined', { party: this.identity, ms: this.joinMs });
    return true;
  }

  // stats notes the counters of the connections that there are now.
  async stats() {
    let stats;
    try {
      stats = await this.room.getRtcStats();
    } catch {
      return; // while it reconnects there may be none
    }
    for (const [name, list] of [
      ['publisher', stats.publisherStats],
      ['subscriber', stats.subscriberStats],
    ]) {
      const entries = (list ?? []).map(({ stats: entry }) => entry);
      const candidates = new Map();
      for (const entry of entries) {
        if (/^(local|remote)Candidate$/.test(entry.case)) candidates.set(entry.value.rtc.id, entry.value.candidate);
      }
      for (const { case: kind, value } of entries) {
        if (kind === 'inboundRtp') this.totals.set(`in ${value.rtc.id} ${value.stream.ssrc}`, value.received);
        if (kind === 'outboundRtp') this.totals.set(`out ${value.rtc.id} ${value.stream.ssrc}`, value.sent);
        if (kind === 'candidatePair' && value.candidatePair.nominated) {
          const ends = [value.candidatePair.localCandidateId, value.candidatePair.remoteCandidateId].map((id) => candidates.get(id));
          if (ends.every(Boolean)) this.pairs[name] = ends.map((c) => `${c.protocol} ${c.address}:${c.port}`).join(' to ');
        }
      }
    }
  }

  result(end, flows) {
    if (this.interrupted) this.interruptions.push({ at: new Date(this.interrupted).toISOString(), ms: end - this.interrupted });
    return {
      identity: this.identity,
      join_ms: this.joinMs ?? 0,
      candidate_pairs: this.pairs,
      interruptions: this.interruptions,
      disconnected: this.disconnected,
      flows,
    };
  }
}

const speaker = new Party('a');
const hearer = new Party('b');
let stopped = false;
let listener;
process.on('SIGTERM', () => (stopped = true));
process.on('SIGINT', () => (stopped = true));

hearer.room.on(RoomEvent.TrackSubscribed, async (track) => {
  for await (const frame of new AudioStream(track, SAMPLE_RATE, 1)) {
    const ended = listener?.frame(frame.data, Date.now());
    if (ended) event('silence', { party: hearer.identity, kind: 'audio', ms: ended.ms });
  }
});

let framesSent = 0;
const joined = [];
for (const party of [hearer, speaker]) if (!stopped && (await party.join())) joined.push(party);
if (joined.length === 2) {
  const source = new AudioSource(SAMPLE_RATE, 1);
  const options = new TrackPublishOptions();
  options.source = TrackSource.SOURCE_MICROPHONE;
  options.dtx = false;
  await speaker.room.localParticipant.publishTrack(LocalAudioTrack.createAudioTrack('audio', source), options);
  listener = new Listener(Date.now(), SILENCE_MS);
  event('running');
  const polling = setInterval(() => joined.forEach((party) => party.stats()), STATS_MS);
  const fill = tone();
  const end = seconds ? Date.now() + seconds * 1000 : Infinity;
  while (!stopped && Date.now() < end) {
    const frame = AudioFrame.create(SAMPLE_RATE, 1, SAMPLES);
    fill(frame.data);
    await source.captureFrame(frame); // as fast as it is played
    framesSent++;
  }
  clearInterval(polling);
}
event('stopping');
const end = Date.now();
const heard = listener?.result(end);
await sleep(SILENCE_MS); // for packets under way
await Promise.all(joined.map((party) => party.stats()));

const received = hearer.totals.sum('packetsReceived');
const lost = hearer.totals.sum('packetsLost');
const counts = { sent: speaker.totals.sum('packetsSent'), expected: received + lost, received, lost, duplicates: 0, reordered: 0 };
const flow = heard && {
  from: speaker.identity,
  kind: 'audio',
  ...counts,
  ...heard,
  frames_sent: framesSent,
  pauses: [],
};
const times = joined.map((party) => party.joinMs).sort((a, b) => a - b);
result.joins.median_ms = times[times.length >> 1] ?? 0;
result.joins.longest_ms = times.at(-1) ?? 0;
result.ended = new Date().toISOString();
result.packets = counts;
result.longest_silence = heard?.longest_silence ?? null;
if (heard) result.longest_silence_where = `${hearer.identity} audio in ${room}`;
result.cpu_seconds = (({ user, system }) => (user + system) / 1e6)(process.cpuUsage());
result.calls = [
  {
    room,
    node: '',
    parties: joined.map((party) => party.result(end, party === hearer && flow ? [flow] : [])),
    late: heard?.silences.some(({ at, ms }) => ms > LATE_MS && Date.parse(at) + ms < end) ? [hearer.identity] : [],
  },
];
process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);

for (const party of joined) party.leaving = true;
await Promise.race([Promise.all(joined.map((party) => party.room.disconnect())), sleep(LEAVE_MS)]);
process.exit(0); // libwebrtc's threads would keep the process
