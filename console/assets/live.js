// The connection: a snapshot, then its events, without a gap for as long as the server remembers.

const KINDS = ["shot", "defect", "alert"];
// The server says something every 10 s; silence for longer is a dead connection.
const SILENCE = 31_000;
const AGAIN = 1_500;
const RELOAD = 500;

/**
 * Follows the feed for ever. `on.state` takes a snapshot, `on.event` one event with its kind,
 * `on.connected` whether there is a connection.
 */
export const follow = (on) => {
  let source = null;
  let watchdog = 0;
  let begun = 0;

  const close = () => {
    source?.close();
    source = null;
    clearTimeout(watchdog);
  };

  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(again, SILENCE);
    on.connected(true);
  };

  const beginIn = (wait) => {
    close();
    clearTimeout(begun);
    begun = setTimeout(begin, wait);
  };

  const again = () => {
    on.connected(false);
    beginIn(AGAIN);
  };

  const begin = async () => {
    try {
      const answer = await fetch("/api/state", { signal: AbortSignal.timeout(10_000) });
      if (!answer.ok) throw new Error(`state: ${answer.status}`);
      const state = await answer.json();
      on.state(state);
      open(state.cursor);
    } catch {
      again();
    }
  };

  const open = (cursor) => {
    close();
    source = new EventSource(`/api/events?after=${encodeURIComponent(cursor)}`);
    source.addEventListener("ping", alive);
    source.addEventListener("reset", () => beginIn(RELOAD));
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        alive();
        on.event(kind, JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      on.connected(false);
      // The browser tries again by itself, with the last id, unless it was turned away.
      if (source?.readyState === EventSource.CLOSED) again();
    });
  };

  begin();
};
