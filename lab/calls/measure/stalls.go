package measure

import (
	"context"
	"sync"
	"time"
)

// stallTick is well below any silence that matters.
const stallTick = 20 * time.Millisecond

// Stalls notes when the program itself did not get to run for longer than the threshold.
type Stalls struct {
	mu     sync.Mutex
	stalls pauses
}

// WatchStalls watches until the context ends.
func WatchStalls(ctx context.Context, threshold time.Duration) *Stalls {
	s := &Stalls{}
	go func() {
		ticker := time.NewTicker(stallTick)
		defer ticker.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			now := time.Now()
			s.mu.Lock()
			s.stalls.add(last, now.Sub(last), threshold)
			s.mu.Unlock()
			last = now
		}
	}()
	return s
}

// List returns the stalls so far.
func (s *Stalls) List() []Silence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Silence{}, s.stalls.over...)
}
