// The tag: data-layer events of a shop's page -> events for DaxGO Connect. The door serves it as /tag.js, and it stands
// in the snippet; both without comments, with short names (engine/tagging/script.py). It asks no other host, evaluates
// nothing, has one global name, needs a browser of 2021 or later, and keeps from the page whatever goes wrong in here.
//
// connectTag.push([settings, message, granted]): `settings` as engine/tagging/settings.py writes them, `message` an
// object as pages push it to their data layer, `granted` what a template of Tag Manager knows of the consent.
(queue => {
  var now = Date.now,
    on = addEventListener,
    safe = run => (...given) => {
      try {
        return run(...given);
      } catch {}
    },
    // randomUUID would do, but not on a page without TLS.
    unique = () => crypto.getRandomValues(new Uint32Array(4)).join('-'),
    text = value => value || value === 0 ? '' + value : void 0,
    number = value => text(value) && value >= 0 ? +value : void 0,
    product = (item, page) => {
      var made = {price: number(item.price), quantity: number(item.quantity)};
      for (var key of 'id name brand category variant image url'.split(' ')) made[key] = text(item['item_' + key] || item[key]);
      made.id ||= made.name;
      made.name ||= made.id;
      made.url ||= text(page);
      return made;
    },
    start = set => {
      var held = [], // seen, and not to be sent yet: no consent, or nobody knows whose they are
        kept = [],
        consent = {},
        fails = 0,
        full,
        told,
        email,
        busy,
        timer,
        layer = window[set.layer] ||= [],
        push = layer.push,
        may = () => told ?? set.consent.every(type => consent[type]),
        // What is on its way or waits: [its id here, the body, when it was put here, not to be sent before]. Tabs share it.
        outbox = change => {
          try {
            full || (kept = JSON.parse(localStorage[set.url] || '[]'));
          } catch {}
          if (change) {
            kept = change(kept.filter(one => now() - one[2] < 2592e5)).slice(-50);
            try {
              localStorage[set.url] = JSON.stringify(kept);
            } catch {
              full = 1;
            }
          }
          return kept;
        },
        without = id => outbox(list => list.filter(one => one[0] != id)),
        forget = () => {
          held = kept = [];
          delete localStorage[set.url];
        },
        // One after the other, in the order in which they happened.
        next = safe(() => {
          var one = !busy && may() && outbox()[0],
            wait;
          if (one) {
            clearTimeout(timer);
            wait = one[3] - now();
            if (wait > 0) timer = setTimeout(next, Math.min(wait, 3e5));
            else {
              busy = one[0];
              // What has no id of its own would come twice if the page were left before the answer.
              set.id || without(busy);
              fetch(set.url, {method: 'POST', body: one[1], keepalive: !one[1][2e4]})
                .then(reply => {
                  if (reply.status > 428 || reply.status == 408) throw reply;
                  wait = fails = 0;
                  without(busy);
                })
                .catch(reply => {
                  wait = Math.min(2 ** ++fails, 300) * Math.random() * 1e3;
                  one[3] = reply.status ? now() + Math.max(wait, reply.headers.get('retry-after') * 1e3) : 0;
                  if (may()) outbox(list => [one, ...list.filter(other => other[0] != busy)]);
                })
                .then(() => {
                  busy = 0;
                  timer = setTimeout(next, wait);
                });
            }
          }
        }),
        // The browser carries on what it is given, also when the page is gone.
        leave = safe(() => {
          var list = outbox();
          if (may() && navigator.onLine && list[0]?.[3] < now())
            list.forEach(one => one[0] != busy && navigator.sendBeacon(set.url, one[1]) && without(one[0]));
        }),
        take = safe((message = {}, granted) => {
          if (granted === !!granted) {
            if (told && !granted) forget();
            told = granted;
          }
          var given = message[2] || {},
            name = message.event,
            user = message.user_data,
            shop = message.ecommerce || {},
            page = location.origin + location.pathname,
            type,
            event,
            key;
          if (message[0] == 'consent') {
            // A default for some regions grants nothing: which one this is, nobody here knows.
            for (key in given) consent[key] = given[key] == 'granted' && !given.region;
            if (message[1] == 'update' && !may()) forget();
          } else if (message[0] == 'event') {
            name = message[1];
            message = shop = given;
          } else if (message[0] == 'set') user = message[1].user_data || given;
          email = text(message.email || user?.email) || email;
          type = {view_item: 'product_view', view_item_list: 'category_view', view_search_results: 'search'}[name] || name;
          if (set.events.includes(type)) {
            event = Object.assign(
              {
                timestamp: new Date(),
                url: page,
                query: message.search_term,
                total: number(shop.value),
                currency: shop.currency,
                orderId: text(shop.transaction_id)
              },
              message,
              {eventType: type, items: shop.items?.map(item => product(item, name == 'view_item' && page)) || message.items},
              set.set
            );
            event.product ||= event.items?.[0];
            // The page of an order that is loaded again is the same purchase.
            if (set.id) event[set.id] = text(event[set.id] || (event.orderId ? type + '-' + event.orderId : unique()));
            held = held.concat(event).slice(-50);
          }
          if (may() && (email || !set.email))
            held.splice(0).forEach(event => {
              event.email = email;
              outbox(list => [...list, [unique(), JSON.stringify(event, set.only.split(' ')), now(), 0]]);
            });
          next();
        });
      on('online', next);
      on('pagehide', leave);
      on('visibilitychange', leave);
      layer.forEach(take);
      layer.push = (...given) => {
        given.forEach(take);
        return push.apply(layer, given);
      };
      return take;
    };
  if (!queue.on) {
    queue.on = {};
    queue.push = safe(([set, message, granted]) => (queue.on[set.url] ||= start(set))(message, granted));
    queue.forEach(queue.push);
  }
})(window.connectTag ||= []);
