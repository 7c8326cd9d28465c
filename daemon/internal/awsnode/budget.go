package awsnode

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"golang.org/x/time/rate"
)

// How often IMDS is asked. Every HTTP request counts.
//
// Asking again, with tokens and retries, takes at most againBurst + againRate*T requests in any T seconds, and one more for a token:
// 50 in any 10 s, 5 a second. Besides, each interface is read once when IMDS first lists it, with at most eniRequests. firstBurst is enough
// for the largest instance; an interface that comes and goes for ever gets at most firstRate.
//
// paceRate bounds both: IMDS drops packets above 1,024 a second, shared with the VPC's DNS, and a request takes three
// ("Query throttling" in the EC2 user guide, "DNS quotas" in the VPC user guide).
const (
	againBurst, againRate = 29, 2
	firstBurst, firstRate = maxInterfaces * eniRequests, 1
	paceBurst, paceRate   = 100, 300

	// eniRequests is the number of requests for all keys of an interface.
	eniRequests = 15
	// maxInterfaces is the largest instance types' number of interfaces (p5.48xlarge).
	maxInterfaces = 64
	// refreshRequests are the most for an interface's changeable keys.
	refreshRequests = 6
	// spareRequests are kept for the interfaces that somebody waits for.
	spareRequests = 8
)

// budget counts the requests to IMDS. It never refuses one: check left first. It is safe for concurrent use.
type budget struct {
	client             imds.HTTPClient
	again, first, pace *rate.Limiter
	now                func() time.Time
}

func newBudget(client imds.HTTPClient, now func() time.Time) *budget {
	return &budget{
		client: client, now: now, again: rate.NewLimiter(againRate, againBurst), first: rate.NewLimiter(firstRate, firstBurst), pace: rate.NewLimiter(paceRate,
			paceBurst),
	}
}

type askingAgain struct{}

func again(ctx context.Context) context.Context { return context.WithValue(ctx, askingAgain{}, true) }

func (b *budget) of(ctx context.Context) *rate.Limiter {
	if ctx.Value(askingAgain{}) != nil {
		return b.again
	}
	return b.first
}

// left is how many requests of the context's kind may be made now; less than one after too many.
func (b *budget) left(ctx context.Context) int { return int(b.of(ctx).TokensAt(b.now())) }

func (b *budget) Do(r *http.Request) (*http.Response, error) {
	if err := b.pace.Wait(r.Context()); err != nil {
		return nil, err
	}
	limiter := b.of(r.Context())
	if r.Method == http.MethodPut { // a token
		limiter = b.again
	}
	limiter.ReserveN(b.now(), 1)
	return b.client.Do(r)
}
