package region

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// edited replaces a text in all answers, as a broken service would.
type edited struct {
	*fakeec2.Server
	from, to string
}

func (e edited) Do(r *http.Request) (*http.Response, error) {
	answer, err := e.Server.Do(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(body, []byte(e.from), []byte(e.to)))), -1
	return answer, nil
}

// TestSenseless: a senseless value makes its ENI unknown, never absent, and leaves the others as they are.
func TestSenseless(t *testing.T) {
	environment(t, nil)
	cfg := account()
	for n := 1; n <= 3; n++ {
		cfg.ENIs = append(cfg.ENIs, fakeec2.ENI{ID: fmt.Sprintf("eni-%08x", n), MAC: fmt.Sprintf("02:00:00:00:00:%02x", n), SubnetID: subnet1, Instance: instance1,
			DeviceIndex: n, AttachmentStatus: "attached", AttachmentID: fmt.Sprintf("eni-attach-%08x", n), Description: fmt.Sprint("number ", n),
			Tags: tags(fmt.Sprint(n))})
	}
	for name, tt := range map[string]struct {
		from, to string
		lists    bool // the list of all can be read
		id       bool // the bad one's id can be read
	}{
		"MAC":          {">02:00:00:00:00:02<", ">nonsense<", true, true},
		"id":           {"<networkInterfaceId>eni-00000002<", "<networkInterfaceId>eni 2<", true, false},
		"attachment":   {"<attachmentId>eni-attach-00000002</attachmentId>", "", true, true},
		"index":        {"<deviceIndex>2</deviceIndex>", "<deviceIndex>-2</deviceIndex>", true, true},
		"no index":     {"<deviceIndex>2</deviceIndex>", "", true, true},
		"not a number": {"<deviceIndex>2</deviceIndex>", "<deviceIndex>two</deviceIndex>", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(Config{QPS: 1000, Burst: 1000, HTTPClient: edited{fakeec2.New(cfg), tt.from, tt.to}})
			all, err := c.Interfaces(t.Context(), vpc.Query{Tags: map[string][]string{"Name": nil}})
			if !tt.lists {
				if err == nil {
					t.Error("a list without the bad one")
				}
			} else {
				bad := 0
				for _, i := range all {
					if i.Unreadable != nil {
						bad++
						if tt.id != (i.ID == "eni-00000002") || i.Status != "" || i.Attachment != nil || !strings.Contains(i.Unreadable.Error(), "makes no sense") {
							t.Errorf("%+v", i)
						}
					}
				}
				if err != nil || len(all) != 3 || bad != 1 {
					t.Errorf("%d ENIs, %d of them unreadable, %v", len(all), bad, err)
				}
			}
			var wg sync.WaitGroup
			for n := 1; n <= 4; n++ { // the fourth does not exist
				wg.Go(func() {
					got, err := c.Interface(t.Context(), fmt.Sprintf("eni-%08x", n))
					switch {
					case n == 2 || n == 4 && !tt.id: // an id that nobody can read might be the fourth's
						if err == nil || code(err) != "" {
							t.Errorf("ENI %d: %+v, %v", n, got, err)
						}
					case n == 4:
						if code(err) != noInterface {
							t.Errorf("ENI 4: %v", err)
						}
					case err != nil || got.Description != fmt.Sprint("number ", n):
						t.Errorf("ENI %d: %+v, %v", n, got, err)
					}
				})
				wg.Go(func() {
					got, err := c.BySlot(t.Context(), fmt.Sprint(n))
					if bad := n == 2; bad != (err != nil) || !bad && len(got) != 1-n/4 {
						t.Errorf("slot %d: %+v, %v", n, got, err)
					}
				})
			}
			wg.Wait()
			if got, err := c.ByInstance(t.Context(), instance1); err == nil {
				t.Errorf("by instance: %+v", got)
			}
		})
	}
}
