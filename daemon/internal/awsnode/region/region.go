// Package region is the controller's client of EC2: it reads and changes the ENIs of a region.
//
// Each action has a bucket of its own, which slows down when EC2 throttles. Questions for single things are gathered into one call.
// Looks are repeated here; a call that changes something is sent once, and only if the guard lets it.
package region

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

const (
	// attempts is how often a look is sent, firstWait to longestWait apart. A change is sent once.
	attempts               = 4
	firstWait, longestWait = 500 * time.Millisecond, 8 * time.Second
	// answerTimeout bounds one attempt, from its token of the bucket on. A page of 1000 ENIs takes EC2 some seconds.
	answerTimeout = 30 * time.Second
	// metadataTimeout bounds the question for the region. A pod without host network may not reach the metadata service at all.
	metadataTimeout = 2 * time.Second
	// credentialsTimeout bounds the first look for credentials.
	credentialsTimeout = 10 * time.Second
)

// Codes that Observe gets for calls without an error code.
const (
	CodeOK       = "OK"
	CodeNoAnswer = "NoAnswer"
	CodeNotSent  = "NotSent"
)

// Config says how a Client asks.
type Config struct {
	// Region is the name of the region; "" stands for the SDK's usual, and for the instance's metadata without one.
	Region string
	// QPS and Burst are for each action alone; 0 stands for 4 a second and 20.
	QPS   float64
	Burst int
	// Guard is asked right before each call that changes something is sent; nil permits all. After an error the call is not sent.
	Guard func() error
	// Observe hears of each call's end, with CodeOK or an error's code; nil is nobody. It must not block.
	Observe func(action, code string, took time.Duration)
	// HTTPClient sends the requests; nil is the SDK's.
	HTTPClient interface {
		Do(r *http.Request) (*http.Response, error)
	}
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Client asks and changes EC2. It is safe for concurrent use, and sends nothing before its first call. Errors are *vpc.EC2Error. Answers of
// looks may be shared between callers, who must not change them.
type Client struct {
	cfg       Config
	firstWait time.Duration
	mutations atomic.Uint64

	connecting chan struct{} // full while somebody connects
	connected  atomic.Pointer[connection]

	mu      sync.Mutex
	buckets map[string]*bucket

	byID, bySlot, byInstance *batcher[[]vpc.Interface]
	instances                *batcher[[]vpc.Instance]
	types                    *batcher[[]vpc.InstanceType]
	subnetByID, subnetByName *batcher[[]vpc.Subnet]
	groupByID, groupByName   *batcher[[]vpc.SecurityGroup]
	knownTypes               sync.Map // of vpc.InstanceType, by name
}

// New returns a client. Region and credentials are the SDK's usual: the environment's, from Pod Identity or IRSA. AWS_ENDPOINT_URL_EC2 names
// another service to ask.
func New(cfg Config) *Client {
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default; whoever tests this gives another
	}
	if cfg.QPS <= 0 {
		cfg.QPS = defaultQPS
	}
	if cfg.Burst <= 0 {
		cfg.Burst = defaultBurst
	}
	c := &Client{cfg: cfg, firstWait: firstWait, connecting: make(chan struct{}, 1), buckets: map[string]*bucket{}}
	c.batches()
	return c
}

// Mutations is the number of calls that changed something, or tried to.
func (c *Client) Mutations() uint64 { return c.mutations.Load() }

// Rates are the present rates of the actions called so far, in calls a second.
func (c *Client) Rates() map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	rates := map[string]float64{}
	for action, b := range c.buckets {
		rates[action] = b.Rate()
	}
	return rates
}

func (c *Client) bucket(action string) *bucket {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.buckets[action]
	if b == nil {
		b = newBucket(c.cfg.QPS, c.cfg.Burst, c.cfg.Now)
		c.buckets[action] = b
	}
	return b
}
