local T = require "t"
local preference = require "mocl.preference"
local rng = require "mocl.rng"

T.test("relabel writes equation 3 as plain text", function()
  T.eq(preference.relabel("how do i win at chess?", { 0.3, 0.7 }),
    "<R1> 0.30 <R2> 0.70 how do i win at chess?")
  T.eq(preference.relabel("x", { 0, 1 }), "<R1> 0.00 <R2> 1.00 x")
  T.eq(preference.relabel("x", { 1 }), "<R1> 1.00 x")
  T.eq(preference.relabel("x", { 1 / 3, 1 / 3, 1 / 3 }), "<R1> 0.33 <R2> 0.33 <R3> 0.33 x")
  T.eq(preference.relabel("two\nlines", { 0.005, 0.995 }):match("two\nlines$"), "two\nlines")
end)

T.test("strip undoes relabel and leaves other text alone", function()
  for n = 0, 100 do
    local p = { n / 100, (100 - n) / 100 }
    local prompt, q = preference.strip(preference.relabel("a\nb <R1> 0.50", p))
    T.eq(prompt, "a\nb <R1> 0.50")
    T.near(q, p, 1e-12)
  end
  for _, text in ipairs { "", "plain", "<R2> 0.50 x", "<R1> 0.5 x", "<R1> 0.50" } do
    local prompt, q = preference.strip(text)
    T.eq(prompt, text)
    T.eq(q, nil)
  end
end)

T.test("check refuses what is no preference", function()
  T.eq(preference.check { 0.25, 0.75 }, { 0.25, 0.75 })
  T.eq(#preference.check { 0.1, 0.2, 0.3, 0.4 }, 4)
  preference.check { 0.5, 0.5 + 9e-7 }
  T.raises("preference {0.5, 0.6} sums to 1.1, not 1", preference.check, { 0.5, 0.6 })
  T.raises("sums to 1.00001, not 1", preference.check, { 0.5, 0.50001 })
  T.raises("preference {%-0.1, 1.1} has a negative weight", preference.check, { -0.1, 1.1 })
  T.raises("sums to %-?nan", preference.check, { 0 / 0, 1 })
  T.raises("entry 2 is a string, not a number", preference.check, { 0.5, "0.5" })
  T.raises("got an empty table", preference.check, {})
  T.raises("got nil", preference.check, nil)
  T.raises("sums to 1.1", preference.relabel, "x", { 0.5, 0.6 })
  -- the position is the caller's
  T.raises("test_preference", function()
    preference.relabel("x", { 2 })
  end)
end)

T.test("the grids", function()
  T.eq(preference.grid(1), { { 1 } })
  local two = preference.grid(2)
  T.eq(#two, 11)
  for i, p in ipairs(two) do
    T.near(p, { (i - 1) / 10, 1 - (i - 1) / 10 }, 1e-12)
  end
  local three = preference.grid(3)
  T.eq(#three, 13)
  T.eq({ three[1], three[4], three[13] }, { { 0, 0, 1 }, { 0.1, 0.8, 0.1 }, { 1, 0, 0 } })
  for _, grid in ipairs { two, three } do
    local seen = {}
    for _, p in ipairs(grid) do
      local text = preference.relabel("", preference.check(p))
      T.ok(not seen[text], text .. " occurs twice")
      seen[text] = true
    end
  end
  three[1][1] = 7
  T.eq(preference.grid(3)[1], { 0, 0, 1 }, "a grid is a copy")
  T.raises("for 1, 2 or 3 objectives, not for 4", preference.grid, 4)
end)

T.test("unseen groups of two are apart, off the grid and different in their tens", function()
  local groups, all = preference.unseen_groups(2), {}
  T.eq(#groups, 4)
  for _, group in ipairs(groups) do
    T.eq(#group, 5)
    local tens, last = {}, -8
    for _, p in ipairs(group) do
      preference.check(p)
      local n = math.floor(100 * p[1] + 0.5)
      T.near(p, { n / 100, (100 - n) / 100 }, 1e-12)
      T.ok(n >= 1 and n <= 99 and n % 10 ~= 0, "no grid point")
      T.ok(n - last >= 8, "at least 8 apart")
      T.ok(not tens[n // 10], "tens of its own")
      T.ok(not all[n], "in one group only")
      tens[n // 10], all[n], last = true, true, n
    end
  end
end)

T.test("unseen groups of three are apart and off the grid", function()
  local function distance(p, q)
    return math.abs(p[1] - q[1]) + math.abs(p[2] - q[2]) + math.abs(p[3] - q[3])
  end
  local groups, seen = preference.unseen_groups(3), {}
  T.eq(#groups, 4)
  for _, group in ipairs(groups) do
    T.eq(#group, 5)
    for i, p in ipairs(group) do
      local text = preference.relabel("", preference.check(p))
      T.ok(not seen[text], text .. " occurs twice")
      seen[text] = true
      for k = 1, i - 1 do
        T.ok(distance(p, group[k]) >= 0.2, "at least 0.2 apart: " .. text)
      end
      for _, g in ipairs(preference.grid(3)) do
        T.ok(distance(p, g) > 0.02, "off the grid: " .. text)
      end
    end
  end
  T.raises("for 2 or 3 objectives, not for 1", preference.unseen_groups, 1)
end)

T.test("random preferences are whole hundredths, all alike likely", function()
  local r = rng.new(0, "test.preference")
  local counts = {}
  for n = 0, 100 do
    counts[n] = 0
  end
  for _ = 1, 20200 do
    local p = preference.check(preference.random(r, 2))
    local n = math.floor(100 * p[1] + 0.5)
    T.near(p[1], n / 100, 1e-12)
    counts[n] = counts[n] + 1
  end
  local chi2 = 0
  for n = 0, 100 do
    chi2 = chi2 + (counts[n] - 200) ^ 2 / 200
  end
  T.ok(chi2 < 100 + 5 * math.sqrt(200), "chi squared of 101 values is " .. chi2)
  local sums = { 0, 0, 0 }
  for _ = 1, 3000 do
    for j, w in ipairs(preference.check(preference.random(r, 3))) do
      sums[j] = sums[j] + w / 3000
    end
  end
  T.near(sums, { 1 / 3, 1 / 3, 1 / 3 }, 0.02)
  T.eq(preference.random(r, 1), { 1 })
end)

T.test("random preferences on the edge: corners and sides alike likely, for three objectives and more", function()
  local r, counts, share = rng.new(1, "test.preference"), {}, preference.EDGE
  for _ = 1, 8000 do
    local p, zeros = preference.check(preference.random(r, 3, share)), {}
    for j, w in ipairs(p) do
      T.near(100 * w, math.floor(100 * w + 0.5), 1e-9)
      zeros[j] = w == 0 and "0" or "x"
    end
    local key = table.concat(zeros)
    counts[key] = (counts[key] or 0) + 1
  end
  for _, corner in ipairs { "x00", "0x0", "00x" } do
    T.near(counts[corner] / 8000, share / 6, 0.01)
  end
  for _, side in ipairs { "xx0", "x0x", "0xx" } do -- and those that are drawn inside
    T.near(counts[side] / 8000, share / 6, 0.02)
  end
  local same, plain = rng.new(2, "two"), rng.new(2, "two")
  for _ = 1, 50 do
    T.eq(preference.random(same, 2, share), preference.random(plain, 2))
  end
end)

T.test("jitter stays near, on the simplex and off the unseen preferences", function()
  local r, hidden = rng.new(5, "jitter"), {}
  for n = 2, 3 do
    for _, group in ipairs(preference.unseen_groups(n)) do
      for _, p in ipairs(group) do
        hidden[preference.relabel("", p)] = true
      end
    end
    for _, p in ipairs(preference.grid(n)) do
      local seen, kinds = {}, 0
      for _ = 1, 400 do
        local q = preference.check(preference.jitter(r, p, 0.04))
        local text = preference.relabel("", q)
        T.ok(not hidden[text], text)
        kinds, seen[text] = kinds + (seen[text] and 0 or 1), true
        for j = 1, n do
          T.ok(math.abs(q[j] - p[j]) < 0.0451 and math.abs(q[j] * 100 - math.floor(q[j] * 100 + .5)) < 1e-9, text)
        end
      end
      local corner = math.max(table.unpack(p)) == 1
      T.ok(corner and kinds == 1 or not corner and kinds >= (n == 2 and 4 or 8), kinds .. " different near " .. preference.relabel("", p))
    end
  end
  T.eq(preference.jitter(r, { 0.3, 0.7 }, 0), { 0.3, 0.7 })
  T.eq(preference.jitter(r, { 1 }, 0.04), { 1 })
  T.raises("sums to 0.9", preference.jitter, r, { 0.2, 0.7 }, 0.04)
end)

T.test("a deck deals every preference once a round", function()
  local grid = preference.grid(2)
  local deck = preference.deck(rng.new(3, "deck"), grid)
  local counts, orders = {}, {}
  for round = 1, 6 do
    local seen, order = {}, {}
    for _ = 1, 11 do
      local p, place = deck:deal(1)
      T.eq(p[1], grid[place[1]])
      T.ok(not seen[place[1]], "twice in a round")
      seen[place[1]] = true
      order[#order + 1] = place[1]
    end
    orders[round] = table.concat(order, " ")
  end
  T.ok(orders[1] ~= orders[2], "reshuffled")
  local all, places = deck:deal(64) -- across the ends of rounds
  T.eq(#all, 64)
  for _, place in ipairs(places) do
    counts[place] = (counts[place] or 0) + 1
  end
  for k = 1, 11 do
    T.ok(counts[k] == 5 or counts[k] == 6, "64 of 11 is five or six of each")
  end
  local again = preference.deck(rng.new(3, "deck"), grid)
  local _, first = again:deal(11)
  T.eq(table.concat(first, " "), orders[1], "the same seed deals the same")
end)

T.test("a restored deck goes on as the saved one", function()
  local grid = preference.grid(3)
  local deck = preference.deck(rng.new(5, "deck"), grid)
  for _, before in ipairs { 0, 7, 13, 30 } do
    deck:deal(before)
    local state = deck:state()
    local _, want = deck:deal(64)
    local other = preference.deck(rng.new(5, "deck"), grid)
    other:deal(3)
    other:restore(state)
    local _, got = other:deal(64)
    T.eq(got, want)
  end
  T.raises("of a deck of 13 entries, this one has 11", function()
    preference.deck(rng.new(0, "deck"), preference.grid(2)):restore(deck:state())
  end)
  T.raises("at least one preference", preference.deck, rng.new(0, "deck"), {})
  T.raises("sums to 1.5", preference.deck, rng.new(0, "deck"), { { 0.5, 1 } })
end)
